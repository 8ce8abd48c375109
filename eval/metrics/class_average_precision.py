"""Mean average precision over classes, as Charades and Charades-Ego define it for videos with several labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from exo2ego.errors import EvaluationError


@dataclass(frozen=True)
class ClassScores:
    """Average precisions as fractions."""

    per_class: NDArray[numpy.float64]
    """[C], NaN for a class that no video has."""
    mean: float
    """Over the classes that some video has."""
    weighted_mean: float
    """Every class weighted by its number of videos (`wAP` of the official code)."""
    num_unlabelled_videos: int
    """Videos without any class; their scores count as -inf."""


def score_classes(truth: NDArray[Any], scores: NDArray[Any]) -> ClassScores:
    """Scores [N videos, C classes] against truth [N, C] of 0 and 1 (`Charades_v1_classify.m`).

    The precision at the rank of each video that has the class, averaged over these videos, not interpolated. Equal
    scores keep the order of the videos, as Matlab's sort does; videos without any class get the score -inf, so that
    they rank last, but for later videos of score -inf. Raises `EvaluationError` for scores that do not fit the
    truth or hold NaN.
    """
    if truth.shape != scores.shape or scores.ndim != 2 or not scores.size:
        raise EvaluationError(
            f"scores are {scores.shape}, expected {truth.shape}: one row per video, one column per class"
        )
    if numpy.isnan(scores).any():
        row, column = numpy.argwhere(numpy.isnan(scores))[0]
        raise EvaluationError(f"score of row {row}, class {column} is NaN; was the model damaged?")
    has = truth.astype(bool)
    unlabelled = ~has.any(axis=1)
    ranked = scores.astype(numpy.float64)
    ranked[unlabelled] = -numpy.inf
    order = numpy.argsort(-ranked, axis=0, kind="stable")
    found = numpy.take_along_axis(has, order, axis=0)
    precision = numpy.cumsum(found, axis=0) / numpy.arange(1, len(found) + 1)[:, None]
    positives = has.sum(axis=0)
    with numpy.errstate(invalid="ignore"):
        per_class = (precision * found).sum(axis=0) / positives
    known = positives > 0
    if not known.any():
        raise EvaluationError("no video has any class; are these the annotations of the videos that were scored?")
    return ClassScores(
        per_class=per_class,
        mean=float(per_class[known].mean()),
        weighted_mean=float((per_class[known] * positives[known]).sum() / positives.sum()),
        num_unlabelled_videos=int(unlabelled.sum()),
    )
