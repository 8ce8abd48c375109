"""Retrieval with graded relevance: the official mAP and nDCG of EPIC-KITCHENS-100 multi-instance retrieval.

The average precision of the official code (JPoSE, which the challenge uses) adds up *graded* relevance at the ranks of
the items of relevance 1; that surprises, and is kept since published numbers have it. Which of equal similarities comes
first is chance there, an unstable sort's; here it is the lower index for mAP and the higher one for nDCG.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

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
    num_with_ties: int
    """Queries with equal similarities: their scores can differ from the official code's."""


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
    average, gain, binary, is_tied = (numpy.concatenate(parts) for parts in zip(*columns, strict=True))
    return RetrievalScores(
        mean_average_precision=_mean(average),
        ndcg=_mean(gain),
        binary_mean_average_precision=_mean(binary),
        num_queries=len(average),
        num_without_target=int(numpy.isnan(average).sum()),
        num_without_relevant=int(numpy.isnan(gain).sum()),
        num_with_ties=int(is_tied.sum()),
    )


def _blocks(similarity: Matrix, relevancy: Matrix) -> Iterator[tuple[Matrix, Matrix]]:
    size = max(1, BLOCK_VALUES // similarity.shape[1])
    exact = numpy.float32 if numpy.can_cast(similarity.dtype, numpy.float32) else numpy.float64
    for start in range(0, len(similarity), size):
        rows = numpy.ascontiguousarray(similarity[start : start + size], dtype=exact)
        if numpy.isnan(rows).any():
            row, column = numpy.argwhere(numpy.isnan(rows))[0]
            raise EvaluationError(f"similarity of row {start + row}, column {column} is NaN; was the model damaged?")
        yield rows, numpy.ascontiguousarray(relevancy[start : start + size])


def _score_block(similarity: Matrix, relevancy: Matrix) -> tuple[Matrix, Matrix, Matrix, Matrix]:
    """Returns average precision, nDCG, binary average precision (NaN: nothing to find) and whether a row has ties."""
    num_rows, num_items = similarity.shape
    order, is_tied = _ordered(similarity)
    order += numpy.arange(0, order.size, num_items)[:, None]
    ranked = relevancy.ravel().take(order)
    places = numpy.flatnonzero(ranked != 0)  # few: everything below looks at relevant items alone
    rows, ranks = numpy.divmod(places, num_items)
    graded = ranked.ravel()[places].astype(numpy.float64)
    relevant = Relevant(rows, ranks, graded, numpy.bincount(rows, minlength=num_rows))
    packed = numpy.zeros((num_rows, max(1, relevant.counts.max())))
    nth = _numbered(rows, relevant.counts)
    packed[rows, nth] = relevant.graded
    added_up = numpy.cumsum(packed, axis=1)[rows, nth]
    average, binary = _average_precisions(relevant, added_up)
    ideal = -numpy.sort(-packed, axis=1)
    gain = _normalised_gain(relevant, _with_ties_reversed(rows, ranks, is_tied), ideal)
    return average, gain, binary, numpy.logical_or.reduce(is_tied, axis=1)


class Relevant(NamedTuple):
    """The relevant items of a block of rows, by row and rank."""

    rows: Matrix
    ranks: Matrix
    """From 0."""
    graded: Matrix
    """Relevance above 0."""
    counts: Matrix
    """Relevant items of every row."""


def _ordered(similarity: Matrix) -> tuple[Matrix, Matrix]:
    """Returns the items of every row from the most similar, ties by the lower index, and which tie with the next."""
    if similarity.dtype == numpy.float32:  # value and index in one integer: sorts faster than indices by values
        bits = (0 - similarity).view(numpy.int32)
        keys = (bits ^ (bits >> 31 & 0x7FFFFFFF)).astype(numpy.int64) << 32 | numpy.arange(similarity.shape[1])
        keys.sort(axis=1)
        ranked = keys >> 32
        return keys & 0xFFFFFFFF, ranked[:, 1:] == ranked[:, :-1]
    order = numpy.argsort(-similarity, axis=1)
    ranked = numpy.take_along_axis(similarity, order, axis=1)
    is_tied = ranked[:, 1:] == ranked[:, :-1]
    tied = is_tied.any(axis=1)
    order[tied] = numpy.argsort(-similarity[tied], axis=1, kind="stable")
    return order, is_tied


def _with_ties_reversed(rows: Matrix, ranks: Matrix, is_tied: Matrix) -> Matrix:
    """Returns the ranks [R] of items if of equal similarities the higher index came first."""
    with_next = numpy.pad(is_tied, ((0, 0), (0, 1)))
    with_previous = numpy.pad(is_tied, ((0, 0), (1, 0)))
    places = numpy.flatnonzero(with_next | with_previous)
    first, last = numpy.flatnonzero(with_next & ~with_previous), numpy.flatnonzero(with_previous & ~with_next)
    run = numpy.searchsorted(first, places, side="right") - 1
    mirrored = (first + last)[run] - places
    moved = numpy.flatnonzero((with_next | with_previous)[rows, ranks])
    num_items = with_next.shape[1]
    reverse = ranks.copy()
    own = numpy.searchsorted(places, rows[moved] * num_items + ranks[moved])
    reverse[moved] = mirrored[own] % num_items
    return reverse


def _numbered(rows: Matrix, counts: Matrix) -> Matrix:
    """Returns how many items of the same row stand before each; `rows` is sorted and has `counts` of every row."""
    return numpy.arange(len(rows)) - (numpy.cumsum(counts) - counts)[rows]


def _average_precisions(relevant: Relevant, added_up: Matrix) -> tuple[Matrix, Matrix]:
    """`added_up` is the relevance of an item and of all before it in its row."""
    is_target = relevant.graded == 1
    rows, ranks = relevant.rows[is_target], relevant.ranks[is_target]
    found = numpy.bincount(rows, minlength=len(relevant.counts))
    nth = _numbered(rows, found) + 1
    with numpy.errstate(invalid="ignore"):
        average = numpy.bincount(rows, weights=added_up[is_target] / (ranks + 1), minlength=len(found)) / found
        binary = numpy.bincount(rows, weights=nth / (ranks + 1), minlength=len(found)) / found
    return average, binary


def _normalised_gain(relevant: Relevant, ranks: Matrix, ideal: Matrix) -> Matrix:
    """Cuts at the number of relevant items of the row (JPoSE `calculate_k_counts`)."""
    within = ranks < relevant.counts[relevant.rows]
    rows, discount = relevant.rows[within], 1 / numpy.log2(numpy.arange(ideal.shape[1]) + 2)
    weights = relevant.graded[within] * discount[ranks[within]]
    with numpy.errstate(invalid="ignore"):
        normalised: Matrix = numpy.bincount(rows, weights=weights, minlength=len(ideal)) / (ideal @ discount)
    return normalised


def _mean(values: Matrix) -> float:
    known = values[~numpy.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
