"""What was built beside Table 2 of the paper: videos, mean length of a clip, questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exo2ego.storage import read_jsonl


@dataclass(frozen=True)
class PaperRow:
    """A row of Exo2Ego Table 2, and the tables of EgoBench that it counts."""

    source: str
    tables: tuple[str, ...]
    videos: int
    mean_s: float
    questions: int
    in_chunks: bool = False
    """Whether a video may be cut into several files, so that files are not what is counted."""


TABLE_2 = (
    PaperRow("EgoSchema", ("egoschema",), 5_031, 180.0, 5_031),
    PaperRow("QAEgo4D closed", ("qaego4d_close",), 166, 310.0, 1_854),
    PaperRow("QAEgo4D open", ("qaego4d_open",), 166, 310.0, 1_854),
    PaperRow("EgoTaskQA", ("egotaskqa_direct", "egotaskqa_indirect"), 2_257, 36.9, 19_182),
    PaperRow("Charades-Ego", ("charades_ego",), 846, 10.8, 846),
    PaperRow("EK-100 MIR", ("ek100_mir",), 138, 3.7, 9_668),
    PaperRow("EgoPlan Val", ("egoplan",), 678, 668.0, 3_339),
    PaperRow("VLN-QA", ("vlnqa",), 200, 7.5, 200),
    PaperRow("EgoMCQ", ("egomcq_inter", "egomcq_intra"), 827, 0.8, 39_716, in_chunks=True),
)
"""The paper has one row for both forms of QAEgo4D."""


@dataclass(frozen=True)
class BuiltRow:
    """The same counts of what was built."""

    paper: PaperRow
    videos: int
    mean_s: float | None
    """None where the annotations do not tell the length of a clip."""
    questions: int


def count_tables(summaries: Mapping[str, Mapping[str, Any]]) -> list[BuiltRow]:
    """Counts what the builds of these summaries wrote; rows of Table 2 of which no table was built are left out."""
    files, questions, lengths = {}, {}, {}
    for summary in summaries.values():
        for table, told in summary["tables"].items():
            files[table] = Path(summary["provenance"]["config"]["out"]) / told["file"]
            questions[table] = told["rows"]
            lengths[table] = summary["facts"].get(f"{table}_mean_clip_seconds")
    rows = []
    for paper in TABLE_2:
        tables = [table for table in paper.tables if table in files]
        if not tables:
            continue
        videos = {
            row["meta"]["video_uid"] if paper.in_chunks else row["video"]
            for table in tables
            for row in read_jsonl(files[table], "table")
        }
        total = sum(questions[table] for table in tables)
        known = all(lengths[table] is not None for table in tables)
        mean_s = sum(lengths[table] * questions[table] for table in tables) / total if known and total else None
        rows.append(BuiltRow(paper, len(videos), mean_s, total))
    return rows
