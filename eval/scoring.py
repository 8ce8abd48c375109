"""From predictions to numbers; pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.measures import Measure
from eval.predictions import Failure
from eval.rank_measures import rank_measures
from exo2ego.errors import EvaluationError
from exo2ego.intervals import Interval, clustered_interval
from exo2ego.records import AnswerMode, Prediction, Question


@dataclass(frozen=True)
class TaskScore:
    """The result of one task in one answer mode."""

    task: str
    mode: AnswerMode
    num_questions: int
    num_scored: int
    """Answered questions whose label is known; the accuracy is over these."""
    num_correct: int
    accuracy: float | None
    """None where nothing could be scored."""
    interval: Interval | None
    """95 %, clustered by video."""
    num_videos: int
    chance: float | None
    """Mean of one over the number of options."""
    num_unparsed: int
    """Answers that name no single option; they are scored as wrong."""
    num_failed: int
    """Questions without an answer because their video cannot be read; they are not scored."""
    num_unlabelled: int
    truth_positions: list[int]
    """How often the truth is option A, B, …"""
    predicted_positions: list[int]
    """How often the prediction is option A, B, …"""
    measures: list[Measure]
    """Accuracy, and for tasks that are printed otherwise their own measures (docs/evaluation.md)."""


def best_option(scores: Sequence[float]) -> int | None:
    """Returns the index of the highest score, None where two share it; raises `EvaluationError` for NaN or infinity."""
    if not all(math.isfinite(score) for score in scores):
        raise EvaluationError(f"option scores are not finite: {list(scores)}; the model's weights or input are damaged")
    best = max(scores)
    return scores.index(best) if list(scores).count(best) == 1 else None


def score(
    predictions: Sequence[Prediction], failures: Sequence[Failure], questions: Mapping[str, Question]
) -> list[TaskScore]:
    """Returns one score per task and answer mode, sorted by both; `questions` by id hold what else a measure needs."""
    groups = sorted({(row.task, row.mode) for row in predictions} | {(row.task, row.mode) for row in failures})
    return [
        _score_task(
            sorted((row for row in predictions if (row.task, row.mode) == group), key=lambda row: row.question_id),
            [row for row in failures if (row.task, row.mode) == group],
            *group,
            questions,
        )
        for group in groups
    ]


def _score_task(
    predictions: list[Prediction],
    failures: list[Failure],
    task: str,
    mode: AnswerMode,
    questions: Mapping[str, Question],
) -> TaskScore:
    scored = [row for row in predictions if row.answer_index is not None]
    correct = [row.predicted_index == row.answer_index for row in scored]
    videos = [row.video for row in scored]
    accuracy = sum(correct) / len(scored) if scored else None
    interval = clustered_interval(correct, videos) if scored else None
    chance = sum(1 / row.num_options for row in scored) / len(scored) if scored else None
    measures = [] if accuracy is None else [Measure("accuracy", accuracy, interval, chance, len(scored))]
    positions = range(max((row.num_options for row in predictions), default=0))
    return TaskScore(
        task=task,
        mode=mode,
        num_questions=len(predictions) + len(failures),
        num_scored=len(scored),
        num_correct=sum(correct),
        accuracy=accuracy,
        interval=interval,
        num_videos=len(set(videos)),
        chance=chance,
        num_unparsed=sum(row.predicted_index is None and row.num_options > 0 for row in predictions),
        num_failed=len(failures),
        num_unlabelled=len(predictions) - len(scored),
        truth_positions=[sum(row.answer_index == position for row in scored) for position in positions],
        predicted_positions=[sum(row.predicted_index == position for row in predictions) for position in positions],
        measures=measures + (rank_measures(task, scored, questions) if scored else []),
    )
