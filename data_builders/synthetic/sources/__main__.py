"""Writes the raw datasets of EgoIT and EgoBench, each in its own layout, made of the takes of a generated corpus."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from data_builders.synthetic.sources.config import SourcesConfig
from exo2ego.command_line import add_flags, given_flags, run_safely
from exo2ego.config import validate_config
from exo2ego.console import console
from exo2ego.errors import ConfigError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data_builders.synthetic.sources", description=__doc__)
    parser.add_argument(
        "--corpus", type=Path, required=True, metavar="DIR", help="a corpus of `python -m data_builders.synthetic`"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="one folder per dataset; unfinished ones are finished"
    )
    add_flags(parser, SourcesConfig)
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per CPU core)"
    )
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Builds the raw datasets of a corpus."""
    arguments = _parser().parse_args(argv)

    def act() -> None:
        config = validate_config(SourcesConfig, given_flags(arguments, SourcesConfig), "command line")
        if arguments.workers < 1:
            raise ConfigError(f"command line: --workers: expected at least 1, got {arguments.workers}")
        from data_builders.synthetic.sources.building import build_sources

        start = time.perf_counter()
        record = build_sources(config, arguments.corpus, arguments.out, arguments.workers)
        rows = ", ".join(f"{name} {told['rows']:,}" for name, told in record["sources"].items())
        seconds = time.perf_counter() - start
        console.print(f"{arguments.out}: {rows} rows; {seconds:.1f} s", markup=False)

    return run_safely(act, arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
