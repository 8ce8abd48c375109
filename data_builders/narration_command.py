"""What the builders that work on narrations share on the command line: arguments, the clip table, the sidecar."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from data_builders.narration_pool import NarrationPool
from exo2ego.command_line import run_safely
from exo2ego.console import console
from exo2ego.data.clips import read_clips
from exo2ego.provenance import provenance
from exo2ego.storage import hash_file, hash_text, write_json


def command_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Returns a parser with the shared arguments."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    add = parser.add_argument
    add("--clips", type=Path, required=True, metavar="FILE", help="clip table, made by data_builders.ego_exoclip")
    add("--out", type=Path, required=True, metavar="FILE", help="JSONL file to write; counts go to NAME.summary.json")
    add("--seed", type=int, default=0, help="decides everything that is drawn (default 0)")
    add(
        "--min-distance-s",
        type=float,
        default=2.0,
        help="seconds within which two narrations of a take may tell one event",
    )
    add("--min-length-s", type=float, default=0.2, help="shortest clip to ask about, in seconds")
    add("--debug", action="store_true", help="show the full traceback of an error")
    return parser


def run_command(arguments: argparse.Namespace, build: Callable[[argparse.Namespace], Mapping[str, Any]]) -> int:
    """Runs a builder, writes its counts beside its output and prints them."""

    def act() -> None:
        counts = build(arguments)
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
        made_by = provenance(settings, arguments.seed, {str(arguments.clips): hash_file(arguments.clips)})
        write_json(arguments.out.with_suffix(".summary.json"), {**counts, "provenance": made_by})
        for name, value in counts.items():
            console.print(f"{name}: {value}", markup=False)
        console.print(f"written: {arguments.out}", markup=False)

    return run_safely(act, arguments.debug)


def read_pool(arguments: argparse.Namespace) -> NarrationPool:
    """Reads the clip table; raises `DataError` when it is missing or damaged."""
    clips = read_clips(arguments.clips)
    return NarrationPool(clips, min_distance_s=arguments.min_distance_s, min_length_s=arguments.min_length_s)


def drawn_order(pool: NarrationPool, seed: int) -> list[int]:
    """Returns the clips that can be asked about in an order that depends on seed and clip ids alone."""
    return sorted(pool.askable, key=lambda index: hash_text(f"{seed}/{pool.clips[index].clip_id}"))
