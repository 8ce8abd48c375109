"""mAP and nDCG of multiple-choice questions: where the one true option stands among the few (not stated in the paper).

The paper prints mAP and nDCG for questions with five options; its baselines fit the reciprocal rank of the true option
and 1 / log2(1 + rank). By chance five options give 45.7 and 59.0 percent, so that these numbers are not comparable with
those over the full gallery (`eval.mir`, `eval.charades`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from exo2ego.errors import EvaluationError


@dataclass(frozen=True)
class RankScores:
    """What one question gives, as fractions."""

    average_precision: float
    """1 / rank of the truth."""
    ndcg: float
    """1 / log2(1 + rank) of the truth."""


def score_ranks(ranks: Sequence[int]) -> RankScores:
    """Returns the mean over ranks that are equally likely (from 1)."""
    return RankScores(
        average_precision=sum(1 / rank for rank in ranks) / len(ranks),
        ndcg=sum(1 / math.log2(1 + rank) for rank in ranks) / len(ranks),
    )


def score_by_scores(scores: Sequence[float], truth: int) -> RankScores:
    """Scores the place of option `truth` by option scores; the options that share its score share its places.

    Raises `EvaluationError` for scores that are not finite.
    """
    if not all(map(math.isfinite, scores)):
        raise EvaluationError(f"option scores are not finite: {list(scores)}; the model's weights or input are damaged")
    better = sum(score > scores[truth] for score in scores)
    tied = sum(score == scores[truth] for score in scores)
    return score_ranks(range(better + 1, better + tied + 1))


def score_by_choice(chosen: int | None, truth: int, num_options: int) -> RankScores:
    """Scores an answer that names one option: it stands first, the others in any order; None names no option.

    An answer without option ranks nothing: it counts as if the truth stood last.
    """
    if chosen is None:
        return score_ranks([num_options])
    return score_ranks([1] if chosen == truth else range(2, num_options + 1))


def chance_of(num_options: int) -> RankScores:
    """Returns what guessing gives."""
    return score_ranks(range(1, num_options + 1))
