"""Retrieval with graded relevance: the official mAP and nDCG of EPIC-KITCHENS-100 multi-instance retrieval.

Two things of the official code (JPoSE, which the challenge uses) surprise, and are kept since published numbers have
them: its average precision adds up *graded* relevance at the ranks of the items of relevance 1, and of equal
similarities the lower index comes first for mAP, the higher one for nDCG.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from exo2ego.errors import EvaluationError

Matrix = NDArray[Any]
BLOCK_VALUES = 1 << 20
"""Elements of the matrices that are sorted at a time: bounds the memory to some 50 MB whatever their size."""


@dataclass(frozen=True)
class RetrievalScores:
    """Mean scores of one direction, as fractions."""

    mean_average_precision: float
    """Official: with graded relevance. NaN where no query has an item of relevance 1."""
    ndcg: float
    """NaN where no query has a relevant item."""
    binary_mean_average_precision: float
    """Not official: only items of relevance 1 count."""
    num_queries: int
    num_without_target: int
    """Queries without an item of relevance 1, left out of both mean average precisions."""
    num_without_relevant: int
    """Queries without an item of relevance above 0, left out of the nDCG."""


def score_retrieval(similarity: Matrix, relevancy: Matrix) -> RetrievalScores:
    """Scores similarities [N queries, M items] against relevancy [N, M] in [0, 1] (JPoSE `mAP.py`, `nDCG.py`).

    One sort per query serves all measures. Pass both transposed for the other direction. Raises `EvaluationError` for
    matrices that do not fit each other or hold NaN.
    """
    if similarity.shape != relevancy.shape or similarity.ndim != 2 or not similarity.size:
        raise EvaluationError(
            f"similarity is {similarity.shape}, relevancy {relevancy.shape}: expected one row per query and one column "
            "per item in both"
        )
    columns = [_score_block(rows, graded) for rows, graded in _blocks(similarity, relevancy)]
    average, gain, binary = (numpy.concatenate(parts) for parts in zip(*columns, strict=True))
    return RetrievalScores(
        mean_average_precision=_mean(average),
        ndcg=_mean(gain),
        binary_mean_average_precision=_mean(binary),
        num_queries=len(average),
        num_without_target=int(numpy.isnan(average).sum()),
        num_without_relevant=int(numpy.isnan(gain).sum()),
    )


def _blocks(similarity: Matrix, relevancy: Matrix) -> Iterator[tuple[Matrix, Matrix]]:
    size = max(1, BLOCK_VALUES // similarity.shape[1])
    for start in range(0, len(similarity), size):
        rows = numpy.ascontiguousarray(similarity[start : start + size])
        if numpy.isnan(rows).any():
            row, column = numpy.argwhere(numpy.isnan(rows))[0]
            raise EvaluationError(f"similarity of row {start + row}, column {column} is NaN; was the model damaged?")
        yield rows, numpy.ascontiguousarray(relevancy[start : start + size])


def _score_block(similarity: Matrix, relevancy: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """Returns average precision, nDCG and binary average precision per row; NaN where a row has nothing to find."""
    for_precision, for_gain = _orders(similarity)
    ranked = numpy.take_along_axis(relevancy, for_precision, axis=1)
    average, binary = _average_precisions(ranked)
    if for_gain is not for_precision:
        ranked = numpy.take_along_axis(relevancy, for_gain, axis=1)
    return average, _normalised_gain(ranked, relevancy), binary


def _orders(similarity: Matrix) -> tuple[Matrix, Matrix]:
    """Returns the items of every row from the most similar: ties by the lower index, and ties by the higher index."""
    order = numpy.argsort(-similarity, axis=1)
    ranked = numpy.take_along_axis(similarity, order, axis=1)
    tied = (ranked[:, 1:] == ranked[:, :-1]).any(axis=1)
    if not tied.any():
        return order, order
    order[tied] = numpy.argsort(-similarity[tied], axis=1, kind="stable")
    reverse = order.copy()
    reverse[tied] = numpy.argsort(similarity[tied], axis=1, kind="stable")[:, ::-1]
    return order, reverse


def _average_precisions(ranked: Matrix) -> tuple[Matrix, Matrix]:
    rows, ranks = numpy.nonzero(ranked == 1)
    found = numpy.bincount(rows, minlength=len(ranked))
    graded = numpy.cumsum(ranked, axis=1, dtype=numpy.float64)[rows, ranks] / (ranks + 1)
    first = numpy.concatenate(([0], numpy.cumsum(found)[:-1]))
    nth = numpy.arange(len(rows)) - first[rows] + 1
    with numpy.errstate(invalid="ignore"):
        average = numpy.bincount(rows, weights=graded, minlength=len(ranked)) / found
        binary = numpy.bincount(rows, weights=nth / (ranks + 1), minlength=len(ranked)) / found
    return average, binary


def _normalised_gain(ranked: Matrix, relevancy: Matrix) -> Matrix:
    """Cuts at the number of relevant items of the row (JPoSE `calculate_k_counts`)."""
    relevant = (relevancy > 0).sum(axis=1)
    depth = int(relevant.max())
    discount = 1 / numpy.log2(numpy.arange(depth) + 2)
    within = numpy.arange(depth) < relevant[:, None]
    gain = (ranked[:, :depth] * within) @ discount
    best = -numpy.sort(-relevancy, axis=1)[:, :depth]
    with numpy.errstate(invalid="ignore"):
        normalised: Matrix = gain / (best @ discount)
    return normalised


def _mean(values: Matrix) -> float:
    known = values[~numpy.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
