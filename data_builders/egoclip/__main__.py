"""Build the EgoClip table, with which the ego branch is initialised (Exo2Ego §4.1), from egoclip.csv.

Source: EgoClip of EgoVLP (github.com/showlab/EgoVLP), 3,847,723 rows; its text and videos are Ego4D's, whose licence
applies. Traps: separated by tabs, with stray quote characters that are no quoting; clips that start before 0 or end
after the video; texts with the tags #C, #O and #unsure; videos whole or in chunks.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from data_builders.egoclip.build import EgoClipOptions, build
from data_builders.source import print_summary
from exo2ego.command_line import run_flagged
from exo2ego.console import console


def main(argv: Sequence[str] | None = None) -> int:
    """Builds EgoClip from the command line; returns the exit code."""

    def act(options: EgoClipOptions) -> None:
        print_summary(build(options))
        console.print(f"written: {options.out / 'clips.parquet'}, clips.arrow, egoclip.summary.json", markup=False)

    return run_flagged("data_builders.egoclip", __doc__, EgoClipOptions, act, argv)


if __name__ == "__main__":
    sys.exit(main())
