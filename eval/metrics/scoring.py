"""From predictions to numbers; pure functions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.failures import Failure
from eval.metrics.calibration import Calibration, calibrate
from eval.metrics.measures import Measure
from eval.metrics.rank_measures import rank_measures, rank_scores
from eval.metrics.slices import Slice, slice_scores
from eval.tasks import TASKS
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
    """Questions without an answer: an unreadable video, or a fault of the model or endpoint; they are not scored."""
    num_unlabelled: int
    """Multiple-choice answers whose true option is not public; they are not scored."""
    num_unanswered: int
    """Questions of the task that have neither an answer nor a failure: the run is not finished."""
    truth_positions: list[int]
    """How often the truth is option A, B, …"""
    predicted_positions: list[int]
    """How often the prediction is option A, B, …"""
    measures: list[Measure]
    """Accuracy, and for tasks that are printed otherwise their own measures (docs/evaluation.md)."""
    calibration: Calibration | None
    """None for generated answers."""
    slices: list[Slice]

    @property
    def printed(self) -> Measure | None:
        """Returns the measure that the paper prints of the task, or else the accuracy."""
        name = printed_measure(self.task)
        return next((measure for measure in self.measures if measure.name == name), None)


def printed_measure(task: str) -> str:
    """Returns the name of the measure that the paper prints of a task; accuracy for a task that is not the paper's."""
    return TASKS[task].measure if task in TASKS else "accuracy"


def printed_values(task: str, scored: Sequence[Prediction]) -> list[float]:
    """Returns what each labelled prediction adds to the printed measure, from 0 to 1."""
    if printed_measure(task) == "option_mAP":
        return [rank_scores(row).average_precision for row in scored]
    return [float(row.predicted_index == row.answer_index) for row in scored]


def best_option(scores: Sequence[float]) -> int | None:
    """Returns the index of the highest score, None where two share it; raises `EvaluationError` for NaN or infinity."""
    if not all(math.isfinite(score) for score in scores):
        raise EvaluationError(f"option scores are not finite: {list(scores)}; the model's weights or input are damaged")
    best = max(scores)
    return scores.index(best) if list(scores).count(best) == 1 else None


def _require_best(row: Prediction) -> None:
    if not row.option_scores:
        return
    best = best_option(row.option_scores)
    if row.predicted_index != best:
        said = "none, for two share the best" if best is None else best
        raise EvaluationError(
            f"question {row.question_id} ({row.mode}): predicted_index is {row.predicted_index}, but its option scores "
            f"say {said}; the predictions were edited, or written by something else: evaluate again"
        )


def score(
    predictions: Sequence[Prediction], failures: Sequence[Failure], questions: Mapping[str, Question]
) -> list[TaskScore]:
    """Returns one score per task and answer mode, sorted by both; `questions` by id hold what else a measure needs.

    Raises `EvaluationError` for a prediction that is not the best of its own option scores.
    """
    for row in predictions:
        _require_best(row)
    grouped: dict[tuple[str, AnswerMode], tuple[list[Prediction], list[Failure]]] = {}
    for row in predictions:
        grouped.setdefault((row.task, row.mode), ([], []))[0].append(row)
    for failed in failures:
        grouped.setdefault((failed.task, failed.mode), ([], []))[1].append(failed)
    asked = Counter(question.task for question in questions.values())
    return [
        _score_task(
            sorted(answered, key=lambda row: row.question_id),
            len(failed_rows),
            max(0, asked[task] - len(answered) - len(failed_rows)),
            (task, mode),
            questions,
        )
        for (task, mode), (answered, failed_rows) in sorted(grouped.items(), key=lambda item: item[0])
    ]


def _score_task(
    predictions: list[Prediction],
    num_failed: int,
    num_unanswered: int,
    group: tuple[str, AnswerMode],
    questions: Mapping[str, Question],
) -> TaskScore:
    task, mode = group
    choices = [row for row in predictions if row.num_options]
    scored = [row for row in choices if row.answer_index is not None]
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
        num_questions=len(predictions) + num_failed + num_unanswered,
        num_scored=len(scored),
        num_correct=sum(correct),
        accuracy=accuracy,
        interval=interval,
        num_videos=len(set(videos)),
        chance=chance,
        num_unparsed=sum(row.predicted_index is None for row in choices),
        num_failed=num_failed,
        num_unlabelled=len(choices) - len(scored),
        num_unanswered=num_unanswered,
        truth_positions=[sum(row.answer_index == position for row in scored) for position in positions],
        predicted_positions=[sum(row.predicted_index == position for row in predictions) for position in positions],
        measures=measures + (rank_measures(task, scored, questions) if scored else []),
        calibration=calibrate(scored),
        slices=slice_scores(scored, questions),
    )
