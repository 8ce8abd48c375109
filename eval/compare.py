"""Compares evaluations on the questions that both answered: `python -m eval.compare A B`; more are compared with A.

Per task and answer mode, and for the paper's average: the difference A - B of the printed measure, its 95 % interval (a
bootstrap over videos, or gains and losses where these reach farther), and McNemar's exact test of right and wrong. A
difference is resolved only where the interval leaves out 0 and, for accuracies, the test rejects at 5 %; nothing is
corrected for looking at several tasks.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.reporting.comparisons import Comparison, comparable_pairs, compare_pairs
from eval.reporting.run_folder import PREFERRED, RunFolder, read_run
from eval.reporting.run_names import names_of
from exo2ego.command_line import run_safely
from exo2ego.console import console
from exo2ego.errors import EvaluationError
from exo2ego.records import AnswerMode
from exo2ego.storage import hash_text


@dataclass(frozen=True)
class Comparisons:
    """All lines, and what was left out."""

    names: tuple[str, str]
    questions: str
    """Hash of the questions that were compared."""
    num_left_out: int
    """Questions that only one folder has, or that differ."""
    num_unpaired: int
    """Answers whose question the other run did not answer in this mode."""
    modes_left_out: list[AnswerMode]
    """Modes in which only one of them answered."""
    rows: list[Comparison]

    def to_json(self) -> dict[str, Any]:
        """Returns what `--json` prints."""
        return dataclasses.asdict(self)


def compare(first: RunFolder, second: RunFolder, *, common: bool = False, seed: int = 0) -> Comparisons:
    """Compares two folders; with `common` on the questions that are the same in both.

    Raises `EvaluationError` where the questions differ and `common` is not set, or nothing can be compared.
    """
    for folder in (first, second):
        if not folder.questions:
            raise EvaluationError(f"{folder.path}: has no questions.jsonl; it is not known what was asked")
    found = comparable_pairs(first, second)
    if not found.same:
        raise EvaluationError(
            f"{first.path} and {second.path} have no question in common: {found.num_left_out:,} are of one alone or "
            "differ; evaluate both on the same question files"
        )
    if found.num_left_out and not common:
        raise EvaluationError(
            f"{first.path} and {second.path} asked different questions: {len(found.same):,} are the same, "
            f"{found.num_left_out:,} are not; evaluate both on the same files, or give --common to compare on the same "
            "ones"
        )
    if not found.pairs:
        modes = [", ".join(sorted({row.mode for row in folder.predictions})) or "none" for folder in (first, second)]
        raise EvaluationError(
            f"{first.path} and {second.path} have no labelled answers to the same questions in the same mode; "
            f"modes of the first: {modes[0]}; of the second: {modes[1]}"
        )
    names = names_of([first, second])
    return Comparisons(
        names=(names[0], names[1]),
        questions=hash_text("\n".join(sorted(found.same))),
        num_left_out=found.num_left_out,
        num_unpaired=found.num_unpaired,
        modes_left_out=[mode for mode in PREFERRED if found.is_one_sided(mode)],
        rows=compare_pairs(found.pairs, seed),
    )


def text(found: Comparisons) -> str:
    """Renders the comparison as a Markdown table."""
    header = ("task", "mode", "measure", "questions", "videos", "A", "B", "A - B", "95 % interval", "only A", "only B")
    lines: list[tuple[str, ...]] = [(*header, "McNemar p", ""), ("---",) * (len(header) + 2)]
    for row in found.rows:
        lines.append(
            (
                *(row.task, row.mode, row.measure, f"{row.num_questions:,}", f"{row.num_videos:,}"),
                *(f"{100 * row.first:.1f}", f"{100 * row.second:.1f}", f"{100 * row.difference:+.1f}"),
                f"{100 * row.interval.low:+.1f} to {100 * row.interval.high:+.1f}",
                *(
                    ("", "", "")
                    if row.p_value is None
                    else (str(row.only_first), str(row.only_second), _p(row.p_value))
                ),
                "resolved" if row.is_resolved else "not resolved",
            )
        )
    about = [f"A: {found.names[0]}", f"B: {found.names[1]}", ""]
    if found.num_left_out:
        about.append(f"{found.num_left_out:,} questions that only one folder has, or that differ, are left out.")
    if found.num_unpaired:
        about.append(f"{found.num_unpaired:,} answers are left out: the other run has none to the same question.")
    if found.modes_left_out:
        about.append(f"Not compared, because one of them alone answered so: {', '.join(found.modes_left_out)}.")
    table = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([*about, *([""] if len(about) > 3 else []), *table, "", *_reading(found)])


def _reading(found: Comparisons) -> list[str]:
    """Returns what a reader must know not to see more in the table than there is."""
    resolved = sum(row.is_resolved for row in found.rows)
    lines = [
        f"{resolved} of {len(found.rows)} lines are resolved. Where two models do not differ at all, chance resolves "
        "about one line in twenty: judge by the average, in a mode chosen beforehand.",
        "Not resolved does not mean equal: the interval says how large the difference may be.",
    ]
    if any(row.p_value is not None and row.measure != "accuracy" for row in found.rows):
        lines.append("McNemar's p is about right and wrong answers; for other measures the interval alone decides.")
    return lines


def _p(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m eval.compare`."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first", type=Path, metavar="A", help="output folder of `python -m eval.egobench`")
    parser.add_argument("others", type=Path, nargs="+", metavar="B", help="others, each compared with A")
    parser.add_argument("--common", action="store_true", help="compare on the same questions where others differ")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default 0)")
    parser.add_argument("--json", action="store_true", help="print JSON with all digits")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    arguments = parser.parse_args(argv)

    def act() -> None:
        first = read_run(arguments.first)
        found = [
            compare(first, read_run(other), common=arguments.common, seed=arguments.seed) for other in arguments.others
        ]
        if arguments.json:
            rows = [one.to_json() for one in found]
            print(json.dumps(rows[0] if len(rows) == 1 else rows, indent=2, allow_nan=False), flush=True)
        else:
            console.print("\n\n".join(map(text, found)), markup=False)

    return run_safely(act, arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
