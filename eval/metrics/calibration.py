"""Whether a model is right as often as it is sure: reliability diagram and expected calibration error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from exo2ego.intervals import Interval, clustered_interval
from exo2ego.records import Prediction

NUM_BINS = 10


@dataclass(frozen=True)
class ConfidenceBin:
    """Answers whose confidence lies in (low, high]."""

    low: float
    high: float
    count: int
    confidence: float
    """Mean."""
    accuracy: float
    interval: Interval
    """Of the accuracy; 95 %, clustered by video."""


@dataclass(frozen=True)
class Calibration:
    """Of the labelled answers of one task that were chosen by option scores."""

    count: int
    error: float
    """Expected calibration error: mean over answers of |accuracy - mean confidence| of their bin."""
    error_by_luck: float
    """The error that as many answers would show on average if every confidence were exactly right."""
    confidence: float
    """Mean; above the accuracy: too sure."""
    bins: list[ConfidenceBin]
    """Those that hold an answer."""


def option_probabilities(scores: Sequence[float]) -> list[float]:
    """Returns softmax of the option scores.

    Letter mode: the probabilities of the letters as next token, among the options' letters. Likelihood mode: softmax of
    the mean token log-probabilities, which are not normalised over options: a convention, not a probability of text.
    """
    best = max(scores)
    weights = [math.exp(score - best) for score in scores]
    total = sum(weights)
    return [weight / total for weight in weights]


def confidence_of(row: Prediction) -> float | None:
    """Returns the probability of the best option, None for generated answers."""
    return None if not row.option_scores else max(option_probabilities(row.option_scores))


def calibrate(scored: Sequence[Prediction]) -> Calibration | None:
    """Returns the calibration of labelled predictions, None where one was generated or there is none."""
    confidences = [confidence_of(row) for row in scored]
    known = [value for value in confidences if value is not None]
    if not scored or len(known) < len(scored):
        return None
    groups: dict[int, list[tuple[float, Prediction]]] = {}
    for value, row in zip(known, scored, strict=True):
        groups.setdefault(min(NUM_BINS, max(1, math.ceil(value * NUM_BINS))), []).append((value, row))
    bins = [_bin(number, groups[number]) for number in sorted(groups)]
    gaps = sum(one.count * abs(one.accuracy - one.confidence) for one in bins)
    return Calibration(
        count=len(scored),
        error=gaps / len(scored),
        error_by_luck=sum(_gap_by_luck([value for value, _ in rows]) for rows in groups.values()) / len(scored),
        confidence=sum(known) / len(known),
        bins=bins,
    )


def _bin(number: int, rows: Sequence[tuple[float, Prediction]]) -> ConfidenceBin:
    right = [row.predicted_index == row.answer_index for _, row in rows]
    return ConfidenceBin(
        low=(number - 1) / NUM_BINS,
        high=number / NUM_BINS,
        count=len(rows),
        confidence=sum(value for value, _ in rows) / len(rows),
        accuracy=sum(right) / len(right),
        interval=clustered_interval(right, [row.video for _, row in rows]),
    )


def _gap_by_luck(confidences: Sequence[float]) -> float:
    """Returns count times the mean absolute deviation of a normal variable with the bin's binomial variance."""
    return math.sqrt(2 / math.pi * sum(value * (1 - value) for value in confidences))
