"""From evaluations to a comparison: averages over tasks, means over seeds, differences to the reference row."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from exo2ego.errors import EvaluationError
from exo2ego.intervals import student_quantile
from exo2ego.storage import read_json, read_jsonl
from scripts.ablations.planning import Plan, Run
from scripts.ablations.running import FINISHED, is_finished
from scripts.ablations.suites import NamedSuite, Row

Array = NDArray[numpy.float64]
RESAMPLES = 4000
DRAWS_AT_ONCE = 1 << 22
"""So that 30,000 videos take 100 MB, not 10 GB."""
ROUNDING = 1e-9
"""Percentage points."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval, percent or percentage points."""

    mean: float
    low: float | None
    """None where one value, or equal ones, say nothing about their spread."""
    high: float | None

    @property
    def excludes_zero(self) -> bool:
        """Returns whether the interval lies on one side of zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Answers:
    """One finished evaluation."""

    run: str
    tasks: dict[str, float]
    """Accuracy by task, percent."""
    chance: dict[str, float]
    """Of guessing, by task, percent."""
    correct: dict[tuple[str, str], tuple[float, str]]
    """(task, question) to right or wrong and the video it is about."""

    @property
    def average(self) -> float:
        """Returns the unweighted mean over tasks, percent."""
        return sum(self.tasks.values()) / len(self.tasks)


@dataclass(frozen=True)
class ComparedRow:
    """A row of the table."""

    name: str
    label: str
    paper: float | None
    paper_tasks: dict[str, float]
    by_seed: dict[int, Answers]
    mean: Estimate | None
    """Over seeds; None where nothing is finished."""
    difference: Estimate | None
    """To the reference row, paired by seed; None for the reference itself."""
    difference_by_seed: dict[int, float]
    question_interval: Estimate | None
    """The same difference; the interval is over the choice of videos, at these trained models."""

    @property
    def resolved(self) -> bool:
        """Returns whether both chances, of training and of the choice of videos, leave the difference its sign."""
        both = (self.difference, self.question_interval)
        return all(estimate is not None and estimate.excludes_zero for estimate in both)


@dataclass(frozen=True)
class Comparison:
    """A suite's table."""

    name: str
    title: str
    source: str
    measure: str
    reference: str
    rows: list[ComparedRow]
    mode: str
    """Answer mode whose accuracy is shown."""
    seeds: list[int]
    num_evaluations: int
    num_finished: int
    made: dict[str, dict[str, Any]]
    """Run name to its record: every finished run behind the table, trained or evaluated."""

    @property
    def chance(self) -> float | None:
        """Returns the average of guessing, percent."""
        answers = [answers for row in self.rows for answers in row.by_seed.values()]
        return sum(answers[0].chance.values()) / len(answers[0].chance) if answers else None

    @property
    def code_versions(self) -> set[str]:
        """Returns the versions of the code that made the runs."""
        return {json.dumps(record["code"], sort_keys=True) for record in self.made.values()}


def compare(named: NamedSuite, plan: Plan, mode: str) -> Comparison:
    """Reads what is finished of a suite; raises `EvaluationError` when rows were asked different tasks."""
    suite = named.suite
    planned = {(row, seed): run for (name, row, seed), run in plan.evaluations.items() if name == named.name}
    seeds = sorted({seed for _, seed in planned})
    read: dict[str, Answers] = {}
    for name in planned.values():
        if name not in read and is_finished(plan.runs[name]):
            read[name] = read_answers(plan.runs[name], mode)
    _require_same_tasks(read.values())
    found: dict[str, dict[int, Answers]] = {row: {} for row, _ in planned}
    for (row, seed), name in planned.items():
        if name in read:
            found[row][seed] = read[name]
    rows = [
        _compared_row(name, suite.rows[name], found[name], found[suite.reference], name == suite.reference)
        for name in suite.rows
        if name in found
    ]
    return Comparison(
        named.name,
        suite.title,
        suite.source,
        suite.measure,
        suite.reference,
        rows,
        mode,
        seeds,
        len(set(planned.values())),
        len(read),
        _records(planned.values(), plan),
    )


def _records(evaluations: Iterable[str], plan: Plan) -> dict[str, dict[str, Any]]:
    """Returns the records of the finished ones among these evaluations and the runs that they build on."""
    used: set[str] = set()
    for evaluation in evaluations:
        name: str | None = evaluation
        while name is not None and name not in used:
            used.add(name)
            name = plan.runs[name].parent
    finished = [run for name, run in plan.runs.items() if name in used and is_finished(run)]
    return {run.name: read_json(run.output / FINISHED) for run in finished}


def _compared_row(
    name: str, row: Row, by_seed: dict[int, Answers], reference: dict[int, Answers], is_reference: bool
) -> ComparedRow:
    distinct = {answers.run: answers.average for answers in by_seed.values()}
    pairs = {seed: (by_seed[seed], reference[seed]) for seed in sorted(by_seed.keys() & reference.keys())}
    # a pair counts once even where several seeds share its runs
    independent = {(ours.run, theirs.run): (ours, theirs) for ours, theirs in pairs.values()}
    compared = not is_reference and bool(pairs)
    return ComparedRow(
        name=name,
        label=row.label,
        paper=row.paper,
        paper_tasks=row.paper_tasks,
        by_seed=by_seed,
        mean=mean_over_seeds(list(distinct.values())) if distinct else None,
        difference=mean_over_seeds([ours.average - theirs.average for ours, theirs in independent.values()])
        if compared
        else None,
        difference_by_seed={seed: ours.average - theirs.average for seed, (ours, theirs) in pairs.items()}
        if compared
        else {},
        question_interval=over_videos(list(independent.values())) if compared else None,
    )


def mean_over_seeds(values: Sequence[float]) -> Estimate:
    """Returns the mean and Student's t interval with `len(values) - 1` degrees of freedom.

    Equal values have none: accuracies come in steps of one question, and a spread below a step is not a spread of zero.
    """
    mean = sum(values) / len(values)
    if max(values) - min(values) < ROUNDING:  # so is one value alone
        return Estimate(mean, None, None)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    half_width = student_quantile(len(values) - 1) * deviation / math.sqrt(len(values))
    return Estimate(mean, mean - half_width, mean + half_width)


def over_videos(pairs: Sequence[tuple[Answers, Answers]]) -> Estimate:
    """Returns the difference averaged over tasks and pairs, with a percentile bootstrap interval over videos."""
    tasks = sorted({task for ours, _ in pairs for task, _ in ours.correct})
    videos = sorted({video for ours, _ in pairs for _, video in ours.correct.values()})
    gains, counts = numpy.zeros((len(videos), len(tasks))), numpy.zeros((len(videos), len(tasks)))
    place = {video: number for number, video in enumerate(videos)}
    for ours, theirs in pairs:
        for (task, question), (right, video) in ours.correct.items():
            other = theirs.correct.get((task, question))
            if other is not None:
                gains[place[video], tasks.index(task)] += right - other[0]
                counts[place[video], tasks.index(task)] += 1
    mean = float(100 * (gains.sum(0) / counts.sum(0)).mean())
    if len(videos) < 2:
        return Estimate(mean, None, None)
    low, high = numpy.nanquantile(resampled_means(gains, counts), [0.025, 0.975])
    return Estimate(mean, float(100 * low), float(100 * high))


def resampled_means(gains: Array, counts: Array) -> Array:
    """Returns the gain per question, averaged over tasks, of every resample of videos; both are [videos, tasks]."""
    chance, num_videos = numpy.random.default_rng(0), len(gains)
    at_once = max(1, DRAWS_AT_ONCE // num_videos)
    means = []
    for first in range(0, RESAMPLES, at_once):
        num = min(at_once, RESAMPLES - first)
        drawn = chance.integers(0, num_videos, (num, num_videos)) + num_videos * numpy.arange(num)[:, None]
        # how often each resample has each video
        weights = numpy.bincount(drawn.ravel(), minlength=num * num_videos).reshape(num, num_videos).astype(float)
        with numpy.errstate(invalid="ignore"):  # a task that a resample leaves without questions
            means.append(numpy.nanmean((weights @ gains) / (weights @ counts), axis=1))
    return numpy.concatenate(means)


def read_answers(run: Run, mode: str) -> Answers:
    """Reads a finished evaluation in one answer mode; raises `EvaluationError` where nothing was scored."""
    path: Path = run.output / "results.json"
    scored = [row for row in read_json(path, "results")["results"] if row["mode"] == mode]
    known = [row for row in scored if row["accuracy"] is not None]
    if not known:
        raise EvaluationError(f"{path}: no task was scored in mode {mode}")
    correct: dict[tuple[str, str], tuple[float, str]] = {}
    for row in read_jsonl(run.output / "predictions.jsonl", "predictions"):
        if row["mode"] == mode and row["answer_index"] is not None:
            right = float(row["predicted_index"] == row["answer_index"])
            correct[row["task"], row["id"]] = (right, row["video"])
    return Answers(
        run.name,
        {row["task"]: 100 * row["accuracy"] for row in known},
        {row["task"]: 100 * row["chance"] for row in known},
        correct,
    )


def _require_same_tasks(evaluations: Iterable[Answers]) -> None:
    first: Answers | None = None
    for answers in evaluations:
        first = first or answers
        if answers.tasks.keys() != first.tasks.keys():
            different = sorted(answers.tasks.keys() ^ first.tasks.keys())
            raise EvaluationError(
                f"{answers.run} and {first.run} were not scored on the same tasks ({', '.join(different)}): their "
                "averages cannot be compared; look for unreadable videos in failures.jsonl"
            )


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Returns the comparison with everything that made it."""
    return {
        "suite": comparison.name,
        "source": comparison.source,
        "measure": comparison.measure,
        "mode": comparison.mode,
        "reference": comparison.reference,
        "seeds": comparison.seeds,
        "chance": comparison.chance,
        "evaluations": {"planned": comparison.num_evaluations, "finished": comparison.num_finished},
        "rows": {row.name: _row_json(row) for row in comparison.rows},
        "runs": comparison.made,
    }


def _row_json(row: ComparedRow) -> dict[str, Any]:
    def estimate(value: Estimate | None) -> dict[str, float | None] | None:
        return None if value is None else vars(value)

    return {
        "label": row.label,
        "paper": row.paper,
        "paper_tasks": row.paper_tasks,
        "seeds": {
            str(seed): {"evaluation": answers.run, "average": answers.average, "tasks": answers.tasks}
            for seed, answers in row.by_seed.items()
        },
        "mean_95_over_seeds_t": estimate(row.mean),
        "difference_95_paired_by_seed_t": estimate(row.difference),
        "difference_95_over_videos_bootstrap": estimate(row.question_interval),
        "difference_by_seed": {str(seed): value for seed, value in row.difference_by_seed.items()},
        "resolved": row.resolved,
    }
