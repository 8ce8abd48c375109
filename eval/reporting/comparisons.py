"""Two runs on the questions that both answered, paired: what `eval.compare` and the controls of a report show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from eval.metrics.paired_differences import difference_interval, mcnemar
from eval.metrics.scoring import printed_measure, printed_values
from eval.reporting.run_folder import PREFERRED, RunFolder
from eval.tasks import AVERAGED, TASKS
from exo2ego.intervals import Interval
from exo2ego.records import AnswerMode, Prediction

SIGNIFICANCE = 0.05
Pair = tuple[Prediction, Prediction]
Pairs = dict[tuple[str, AnswerMode], list[Pair]]


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
