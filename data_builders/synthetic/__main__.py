"""`python -m data_builders.synthetic --out DIR`: renders a small simulated world in the files of Ego-Exo4D v2."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from data_builders.synthetic.config import FEWEST_TAKES_WITH_TRAPS, SyntheticConfig
from data_builders.synthetic.ground_truth import read_settings
from exo2ego.command_line import add_flags, given_flags, run_safely
from exo2ego.config import validate_config
from exo2ego.console import console
from exo2ego.errors import ConfigError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data_builders.synthetic", description=__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder of the corpus; an unfinished one is finished"
    )
    add_flags(parser, SyntheticConfig)
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per CPU core)"
    )
    parser.add_argument(
        "--preview", type=Path, metavar="FILE.png", help="also draw a contact sheet of both views with narrations"
    )
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Builds a corpus and, if asked, its contact sheet."""
    arguments = _parser().parse_args(argv)
    given = given_flags(arguments, SyntheticConfig)

    def act() -> None:
        # A corpus that is there (to be finished, or only to be looked at) keeps its settings.
        there = read_settings(arguments.out)
        config = validate_config(SyntheticConfig, {**there, **given}, "command line")
        if arguments.workers < 1:
            raise ConfigError(f"command line: --workers: expected at least 1, got {arguments.workers}")
        _build(config, arguments.out, arguments.workers)
        if arguments.preview is not None:
            from data_builders.synthetic.preview import draw_contact_sheet

            draw_contact_sheet(arguments.out, arguments.preview)
            console.print(f"contact sheet: {arguments.preview}")

    return run_safely(act, arguments.debug)


def _build(config: SyntheticConfig, root: Path, workers: int) -> None:
    from data_builders.synthetic.corpus import build_corpus

    start = time.perf_counter()
    build_corpus(config, root, workers)
    seconds = time.perf_counter() - start
    console.print(
        f"{root}: {config.takes} takes ({config.num_train_takes} train, {config.num_val_takes} val, "
        f"{config.num_test_takes} test) of {config.seconds_per_take:g} s with {1 + config.exo_cameras} cameras, "
        f"{'with' if config.with_traps else 'without'} traps; {seconds:.1f} s"
    )
    if config.traps and not config.with_traps:
        console.print(f"no traps: they need at least {FEWEST_TAKES_WITH_TRAPS} takes")


if __name__ == "__main__":
    sys.exit(main())
