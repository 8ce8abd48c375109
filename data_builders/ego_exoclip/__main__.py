"""`python -m data_builders.ego_exoclip --root EGOEXO4D_DIR --out DIR`."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from data_builders.ego_exoclip.clip_rule import PAPER_ALPHA_S, GroupBy, UndefinedBeta, ZeroLength
from exo2ego.command_line import run_safely
from exo2ego.console import console

if TYPE_CHECKING:
    from data_builders.ego_exoclip.build import BuildOptions

DROP_RULES = ("rejected", "unsure", "not-ego-visible", "other-subject")


def main(argv: Sequence[str] | None = None) -> int:
    """Builds Ego-ExoClip from the command line; returns the exit code."""
    arguments = _parser().parse_args(argv)

    def act() -> None:
        from data_builders.ego_exoclip.build import build

        options = _options(arguments)
        _print_summary(options, build(options))

    return run_safely(act, arguments.debug)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_builders.ego_exoclip",
        description="Build the Ego-ExoClip table from an Ego-Exo4D v2 folder (Exo2Ego §3.1, Eq. 1).",
    )
    add = parser.add_argument
    add("--root", type=Path, required=True, metavar="DIR", help="Ego-Exo4D folder as `egoexo -o DIR` writes it")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for clips.parquet, report.md and the rest")
    add("--split", choices=("train", "val"), default="train", help="takes to build from (paper: train)")
    add(
        "--alpha",
        type=_alpha,
        default=None,
        metavar=f"auto|{PAPER_ALPHA_S}",
        help=f"scale of Eq. 1 in seconds; auto measures it, {PAPER_ALPHA_S} reproduces the paper's clips from a subset",
    )
    add("--group-by", choices=get_args(GroupBy), default="take", help="whose narrations are neighbours (default take)")
    add("--zero-length", choices=get_args(ZeroLength), default="keep", help="clips without length (default keep)")
    add(
        "--undefined-beta",
        choices=get_args(UndefinedBeta),
        default="half-second",
        help="takes with fewer than two distinct timestamps: half width 0.5 s, or no clip (default half-second)",
    )
    add(
        "--drop",
        nargs="*",
        choices=DROP_RULES,
        default=["rejected"],
        help="narrations to leave out (default rejected); `--drop` alone keeps all",
    )
    add("--spell-out-wearer", action="store_true", help='write "Camera-wearer" for "C" in the text (Exo2Ego Fig. 3)')
    add(
        "--resolution", choices=("448", "full"), default="448", help="downscaled videos (default 448) or full-size ones"
    )
    files = parser.add_mutually_exclusive_group()
    files.add_argument(
        "--no-files", action="store_true", help="build from the annotations alone, without looking for videos"
    )
    files.add_argument(
        "--check-videos",
        action="store_true",
        help="decode the first and last frame of every video and leave out those that fail; a rerun continues",
    )
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="parallel probes of --check-videos")
    add("--debug", action="store_true", help="show the full traceback of an error")
    return parser


def _alpha(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected auto or a number of seconds above 0, got {text!r}")
    return value


def _options(arguments: argparse.Namespace) -> BuildOptions:
    from data_builders.ego_exoclip.build import BuildOptions

    return BuildOptions(
        root=arguments.root,
        out=arguments.out,
        split=arguments.split,
        alpha=arguments.alpha,
        group_by=arguments.group_by,
        zero_length=arguments.zero_length,
        undefined_beta=arguments.undefined_beta,
        drop=frozenset(arguments.drop),
        spell_out_wearer=arguments.spell_out_wearer,
        resolution=arguments.resolution,
        check_files=not arguments.no_files,
        check_videos=arguments.check_videos,
        num_workers=max(1, arguments.workers),
    )


def _print_summary(options: BuildOptions, statistics: dict[str, Any]) -> None:
    alpha_s, durations = statistics["alpha_s"], statistics["durations"]
    console.print(
        f"{durations['clips']:,} clips of {statistics['takes']:,} takes, {statistics['pairs']:,} ego-exo pairs; "
        f"α {'undefined' if alpha_s is None else f'{alpha_s:.6f} s'} (paper {PAPER_ALPHA_S}), "
        f"mean {durations['mean_s']:.2f} s, {durations['share_below_1s']:.1%} below 1 s"
    )
    for kind, reasons in statistics["dropped"].items():
        console.print(f"left out, {kind}s: " + ", ".join(f"{count:,} {reason}" for reason, count in reasons.items()))
    if checked := statistics["video_check"]["states"]:
        states = ", ".join(f"{count:,} {state}" for state, count in checked.items())
        console.print(f"videos: {states} (see report.md and {options.out / 'video_check.jsonl'})")
    console.print(f"written: {options.out / 'report.md'}, clips.parquet, clips.arrow, stats.json, dropped.jsonl")


if __name__ == "__main__":
    sys.exit(main())
