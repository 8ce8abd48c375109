"""Build the EgoClip table, with which the ego branch is initialised (Exo2Ego §4.1), from egoclip.csv.

Source: EgoClip of EgoVLP (github.com/showlab/EgoVLP), 3,847,723 rows; its text and videos are Ego4D's, whose licence
applies. Traps: separated by tabs, with stray quote characters that are no quoting; clips that start before 0 or end
after the video; texts with the tags #C, #O and #unsure; videos whole or in chunks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from data_builders.egoclip.build import EgoClipOptions, build
from data_builders.source import print_summary
from exo2ego.command_line import add_flags, given_flags, run_safely
from exo2ego.config import validate_config
from exo2ego.console import console


def main(argv: Sequence[str] | None = None) -> int:
    """Builds EgoClip from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m data_builders.egoclip",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_flags(parser, EgoClipOptions)
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    arguments = parser.parse_args(argv)

    def act() -> None:
        options = validate_config(EgoClipOptions, given_flags(arguments, EgoClipOptions), "command line")
        print_summary(build(options))
        console.print(f"written: {options.out / 'clips.parquet'}, clips.arrow, egoclip.summary.json", markup=False)

    return run_safely(act, arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
