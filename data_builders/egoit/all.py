"""All of EgoIT: every source whose root is given, and one table of their conversations, on which stage 3 trains.

`egoit.jsonl` holds the tables of this run one after the other, in the order of the sources. Its paths are relative to
one folder, `media_root`, which has to lie above the videos of all sources.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_builders.all_sources import config_class, run_all_command
from data_builders.egoit import egoexolearn, egotimeqa, egtea, openeqa, ssv2
from data_builders.paper_counts import PaperCount, compare
from data_builders.source import Source
from exo2ego.console import console
from exo2ego.errors import DataError
from exo2ego.provenance import provenance
from exo2ego.storage import atomic_path, hash_file, read_jsonl, remove_leftovers, write_json, write_jsonl

SOURCES: tuple[Source[Any, Any], ...] = (
    egtea.SOURCE,
    ssv2.SOURCE,
    egotimeqa.SOURCE,
    openeqa.SOURCE,
    egoexolearn.SOURCE,
)
TABLE = "egoit"


CONFIG = config_class("EgoITConfig", SOURCES)


def combine(out: Path, summaries: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes the tables of a run into one, with its summary; raises `DataError` for an id that two sources have."""
    remove_leftovers(out)
    tables = {
        Path(summary["provenance"]["config"]["out"]) / table["file"]: table["sha256"]
        for summary in summaries.values()
        for table in summary["tables"].values()
    }
    path, summary_path = out / f"{TABLE}.jsonl", out / f"{TABLE}.summary.json"
    with atomic_path(path) as temporary:
        rows = write_jsonl(temporary, _rows(tables))
        summary_path.unlink(missing_ok=True)  # it would tell of another table than the one that now takes its place
    without = [source.name for source in SOURCES if source.name not in summaries]
    reason = f"without {', '.join(without)}" if without else "see the sources"
    compared = compare(TABLE, PaperCount(586_000, "Table 1", rounded_to=1000, reason=reason), rows)
    configs = {name: summary["provenance"]["config"] for name, summary in summaries.items()}
    summary = {
        "source": TABLE,
        "tables": {TABLE: {"file": path.name, "rows": rows, "sha256": hash_file(path)}},
        "sources": {name: summary["tables"][name]["rows"] for name, summary in summaries.items()},
        "paper": [compared],
        "provenance": provenance(configs, inputs={str(table): digest for table, digest in tables.items()}),
    }
    write_json(summary_path, summary)
    console.print(compared["sentence"], markup=False)
    console.print(f"written: {path}", markup=False)


def _rows(tables: Mapping[Path, str]) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    for path in tables:
        for row in read_jsonl(path, "table"):
            if row["id"] in seen:
                raise DataError(f"{path}: the id {row['id']!a} is also in another source; ids must be unique")
            seen.add(row["id"])
            yield row


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_all_command("data_builders.egoit.all", __doc__, SOURCES, CONFIG, combine, argv)


if __name__ == "__main__":
    sys.exit(main())
