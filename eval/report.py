"""Writes the results of a run from its predictions; `python -m eval.report FOLDER` writes the same bytes again."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from eval.predictions import read_asked, read_failures, read_predictions
from eval.scoring import TaskScore, score
from exo2ego.command_line import run_safely
from exo2ego.console import console
from exo2ego.data.prompting import LETTERS
from exo2ego.intervals import Interval
from exo2ego.storage import write_json, write_text

HEADER = ("task", "mode", "questions", "videos", "accuracy", "95 % interval", "chance", "unparsed", "unreadable")
NOTES = """\
Accuracy, interval and chance are in percent. The interval is clustered by video (see `exo2ego/intervals.py`). An answer
that names no single option is wrong and counted as unparsed. Questions about unreadable videos are not scored.
"""


def write_report(folder: Path) -> list[TaskScore]:
    """Scores the predictions in `folder` and writes `results.json` and `results.md` there."""
    scores = score(read_predictions(folder), read_failures(folder), read_asked(folder))
    write_json(folder / "results.json", {"results": [dataclasses.asdict(row) for row in scores]})
    write_text(folder / "results.md", markdown(scores))
    return scores


def markdown(scores: Sequence[TaskScore]) -> str:
    """Renders scores as a Markdown document: accuracies, then how often each position is true and predicted."""
    accuracies = [_accuracy_cells(row) for row in scores]
    positions = [
        (row.task, row.mode, name, *(str(count) for count in counts))
        for row in scores
        for name, counts in (("truth", row.truth_positions), ("prediction", row.predicted_positions))
    ]
    most = max((len(row.truth_positions) for row in scores), default=0)
    return "\n".join(
        (
            "# Results",
            "",
            *_table(HEADER, accuracies),
            "",
            NOTES,
            "## Positions",
            "",
            *_table(("task", "mode", "", *LETTERS[:most]), positions),
            "",
        )
    )


def _accuracy_cells(row: TaskScore) -> tuple[str, ...]:
    return (
        row.task,
        row.mode,
        str(row.num_scored) + (f" (+{row.num_unlabelled} unlabelled)" if row.num_unlabelled else ""),
        str(row.num_videos),
        _percent(row.accuracy),
        _interval(row.interval),
        _percent(row.chance),
        str(row.num_unparsed),
        str(row.num_failed),
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _interval(interval: Interval | None) -> str:
    return "–" if interval is None else f"{100 * interval.low:.1f}–{100 * interval.high:.1f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *([*row, *[""] * (len(header) - len(row))] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m eval.report`."""
    parser = argparse.ArgumentParser(prog="python -m eval.report", description=__doc__)
    parser.add_argument("folder", type=Path, help="output folder of `python -m eval.egobench`")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    arguments = parser.parse_args(argv)

    def act() -> None:
        console.print(markdown(write_report(arguments.folder)), markup=False)

    return run_safely(act, arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
