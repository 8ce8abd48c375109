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
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.metrics.paired_differences import difference_interval, mcnemar
from eval.metrics.scoring import printed_measure, printed_values
from eval.reporting.run_folder import PREFERRED, RunFolder, read_run
from eval.reporting.run_names import names_of
from eval.tasks import AVERAGED, TASKS
from exo2ego.command_line import run_safely
from exo2ego.console import console
from exo2ego.errors import EvaluationError
from exo2ego.intervals import Interval
from exo2ego.records import AnswerMode, Prediction
from exo2ego.storage import hash_text

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Comparison:
    """One line: a task or the average, in one answer mode; fractions."""

    task: str
    """`average` for the paper's average."""
    mode: AnswerMode
    measure: str
    num_questions: int
    num_videos: int
    first: float
    second: float
    difference: float
    interval: Interval
    """95 %, of the difference, clustered by video (`eval/metrics/paired_differences.py`)."""
    only_first: int
    """Questions that the first got right and the second wrong."""
    only_second: int
    p_value: float | None
    """McNemar's; None for the average."""
    is_resolved: bool


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


Pair = tuple[Prediction, Prediction]
Pairs = dict[tuple[str, AnswerMode], list[Pair]]


@dataclass(frozen=True)
class ComparablePairs:
    """The labelled answers of two runs to the same questions in the same mode."""

    pairs: Pairs
    same: set[str]
    """Ids of the questions that are equal in both."""
    num_left_out: int
    num_unpaired: int
    modes: tuple[set[AnswerMode], set[AnswerMode]]
    """In which each run has labelled answers."""

    def is_one_sided(self, mode: AnswerMode) -> bool:
        """Returns whether one run alone answered in this mode."""
        return (mode in self.modes[0]) != (mode in self.modes[1])


def comparable_pairs(first: RunFolder, second: RunFolder) -> ComparablePairs:
    """Returns what can be compared, and counts what cannot."""
    ids = first.questions.keys() | second.questions.keys()
    same = {name for name in ids if first.questions.get(name) == second.questions.get(name)}
    ours = {(row.question_id, row.mode): row for row in _labelled(first) if row.question_id in same}
    theirs = {(row.question_id, row.mode): row for row in _labelled(second) if row.question_id in same}
    pairs: Pairs = {}
    for key in sorted(ours.keys() & theirs.keys()):
        pairs.setdefault((ours[key].task, key[1]), []).append((ours[key], theirs[key]))
    modes = ({mode for _, mode in ours}, {mode for _, mode in theirs})
    num_unpaired = sum(mode in modes[0] & modes[1] for _, mode in ours.keys() ^ theirs.keys())
    return ComparablePairs(pairs, same, len(ids) - len(same), num_unpaired, modes)


def compare_pairs(pairs: Pairs, seed: int = 0) -> list[Comparison]:
    """Returns, mode by mode, a line per task and one of the average where all its tasks are there."""
    rows = []
    for mode in PREFERRED:
        tasks = {task for task, other in pairs if other == mode}
        ordered = [task for task in TASKS if task in tasks] + sorted(tasks - set(TASKS))
        rows += [_compare_task(task, mode, pairs[task, mode], seed) for task in ordered]
        if tasks.issuperset(AVERAGED):
            rows.append(_compare_average(pairs, mode, seed))
    return rows


def _labelled(folder: RunFolder) -> Iterable[Prediction]:
    return (row for row in folder.predictions if row.answer_index is not None)


def _compare_task(task: str, mode: AnswerMode, pairs: Sequence[Pair], seed: int) -> Comparison:
    ours, theirs, differences, videos = _values(task, pairs)
    rights = [(a.predicted_index == a.answer_index, b.predicted_index == b.answer_index) for a, b in pairs]
    only_first, only_second = sum(a and not b for a, b in rights), sum(b and not a for a, b in rights)
    interval = difference_interval([(differences, videos)], seed)
    p_value = mcnemar(only_first, only_second)
    measure = printed_measure(task)
    is_outside = interval.low > 0 or interval.high < 0
    return Comparison(
        task=task,
        mode=mode,
        measure=measure,
        num_questions=len(pairs),
        num_videos=len(set(videos)),
        first=_mean(ours),
        second=_mean(theirs),
        difference=_mean(differences),
        interval=interval,
        only_first=only_first,
        only_second=only_second,
        p_value=p_value,
        is_resolved=is_outside and (measure != "accuracy" or p_value < SIGNIFICANCE),
    )


def _compare_average(pairs: Pairs, mode: AnswerMode, seed: int) -> Comparison:
    values = [_values(task, pairs[task, mode]) for task in AVERAGED]
    first = _mean([_mean(ours) for ours, _, _, _ in values])
    second = _mean([_mean(theirs) for _, theirs, _, _ in values])
    interval = difference_interval([(differences, videos) for _, _, differences, videos in values], seed)
    return Comparison(
        task="average",
        mode=mode,
        measure="average",
        num_questions=sum(len(videos) for _, _, _, videos in values),
        num_videos=len({video for _, _, _, videos in values for video in videos}),
        first=first,
        second=second,
        difference=first - second,
        interval=interval,
        only_first=0,
        only_second=0,
        p_value=None,
        is_resolved=interval.low > 0 or interval.high < 0,
    )


def _values(task: str, pairs: Sequence[Pair]) -> tuple[list[float], list[float], list[float], list[str]]:
    ours = printed_values(task, [pair[0] for pair in pairs])
    theirs = printed_values(task, [pair[1] for pair in pairs])
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    return ours, theirs, differences, [pair[0].video for pair in pairs]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


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
