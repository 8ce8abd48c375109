"""Build all of EgoBench: every source whose root is given, with the counts of Table 2 of the paper beside.

A source without a root is skipped and named; one that fails is named with its fault, and the others are built. The
configuration has one section per source with the options of its own command.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_builders.all_sources import config_class, run_all_command
from data_builders.egobench import charades_ego, egomcq, egoplan, egoschema, egotaskqa, ek100_mir, qaego4d, vlnqa
from data_builders.egobench.table_2 import count_tables
from data_builders.source import Source
from exo2ego.console import console

SOURCES: tuple[Source[Any, Any], ...] = (
    egoschema.SOURCE,
    qaego4d.SOURCE,
    egotaskqa.SOURCE,
    charades_ego.SOURCE,
    ek100_mir.SOURCE,
    egoplan.SOURCE,
    vlnqa.SOURCE,
    egomcq.SOURCE,
)
"""In the order of Table 2."""
CONFIG = config_class("EgoBenchConfig", SOURCES)


def _print_table_2(_: Path, summaries: Mapping[str, Mapping[str, Any]]) -> None:
    from rich.table import Table

    table = Table("source", "videos", "paper", "mean s", "paper", "questions", "paper", title="Exo2Ego Table 2")
    for row in count_tables(summaries):
        mean_s = "-" if row.mean_s is None else f"{row.mean_s:,.1f}"
        built = (f"{row.videos:,}", f"{row.paper.videos:,}", mean_s, f"{row.paper.mean_s:,.1f}")
        table.add_row(row.paper.source, *built, f"{row.questions:,}", f"{row.paper.questions:,}")
    console.print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m data_builders.egobench.all`."""
    return run_all_command("data_builders.egobench.all", __doc__, SOURCES, CONFIG, _print_table_2, argv)


if __name__ == "__main__":
    sys.exit(main())
