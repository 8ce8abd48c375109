"""What the paper counts in its data (Exo2Ego Tables 1 and 2), and how a build compares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PaperCount:
    """A number of rows that the paper prints, as it prints it."""

    rows: int
    where: str
    """The place in the paper, for example `Table 1`."""
    rounded_to: int = 1
    """The paper prints multiples of this: 1000 for `15K`."""
    reason: str = ""
    """Why a build from the public files may count otherwise, where that is known."""


def compare(table: str, paper: PaperCount, rows: int) -> dict[str, Any]:
    """Returns rows, the paper's rows and their difference, with a sentence for people."""
    difference = rows - paper.rows
    agrees = abs(difference) * 2 <= paper.rounded_to - (paper.rounded_to == 1)
    told = "as in the paper" if agrees else f"{difference:+,}"
    reason = f"; {paper.reason}" if paper.reason and not agrees else ""
    about = "about " if paper.rounded_to > 1 else ""
    return {
        "table": table,
        "rows": rows,
        "paper_rows": paper.rows,
        "difference": difference,
        "agrees": agrees,
        "reason": paper.reason,
        "sentence": f"{table}: {rows:,} rows, the paper has {about}{paper.rows:,} ({paper.where}): {told}{reason}",
    }
