"""Exact nearest neighbours by scalar product, in blocks: the memory does not depend on how many vectors there are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

Vectors = NDArray[numpy.float32]
Numbers = NDArray[numpy.int64]
Similarities = NDArray[numpy.float64]

QUERIES_PER_BLOCK = 1024
COLUMNS_PER_BLOCK = 16384
COLUMNS_PER_GROUP = 32
"""Columns of which first only the greatest similarity is looked at; 16 and 64 take as long."""
DECIMALS = 6
"""Similarities that agree to these decimals tie: the same text embedded in two batches differs by about 1e-7."""
MAX_PENDING = 1 << 17
PAIRS_PER_STEP = 256
"""Their vectors fit into the cache of one core."""


class NearestSearch:
    """Finds the `count` of `columns` (sorted numbers of rows of `vectors`) that are nearest; all rows have length 1."""

    def __init__(self, vectors: Vectors, columns: Numbers, count: int) -> None:
        self._vectors, self._count = vectors, count
        parts = [columns[start : start + COLUMNS_PER_BLOCK] for start in range(0, len(columns), COLUMNS_PER_BLOCK)]
        self._blocks = [_Block(part, max(1, min(COLUMNS_PER_GROUP, len(part) // (8 * count)))) for part in parts]
        most = max((block.group * block.width for block in self._blocks), default=0)
        self._products = numpy.empty(QUERIES_PER_BLOCK * most, numpy.float32)  # new memory for each block costs time

    def find(self, queries: Vectors, own: Numbers, excluded: Sequence[Numbers] = ()) -> tuple[Numbers, Similarities]:
        """Returns columns and similarities of at most QUERIES_PER_BLOCK queries [Q, D], both [Q, count].

        Best first by the similarity to six decimals, then by column; where too few are left, columns of -1.
        Query q does not get the column `own[q]` (-1: it has none), nor, where they are given, those of `excluded[q]`.
        """
        found = _Candidates(queries, self._vectors, self._count)
        numbers = numpy.arange(len(queries))
        more = numpy.repeat(numbers[: len(excluded)], [len(one) for one in excluded])
        masked_queries, masked_columns = numpy.concatenate([numbers, more]), numpy.concatenate([own, *excluded])
        for block in self._blocks:
            shape = (len(queries), block.group, block.width)
            products = self._products[: len(queries) * block.group * block.width].reshape(shape)
            flat = products.reshape(len(queries), -1)
            numpy.matmul(queries, block.take(self._vectors).T, out=flat[:, : len(block.columns)])
            flat[:, len(block.columns) :] = -numpy.inf
            place = numpy.searchsorted(block.columns, masked_columns)
            place[place == len(block.columns)] = 0
            hit = block.columns[place] == masked_columns
            flat[masked_queries[hit], place[hit]] = -numpy.inf
            found.add(block.columns, products)
        return found.best()


class _Block:
    """Columns that are searched at once, in groups of `group`: group g holds those at places g, g + width, …"""

    def __init__(self, columns: Numbers, group: int) -> None:
        self.columns = columns
        self.group = group
        self.width = -(-len(columns) // group)

    def take(self, vectors: Vectors) -> Vectors:
        """Returns the vectors of the columns, without a copy where the columns are neighbours."""
        first, last = int(self.columns[0]), int(self.columns[-1])
        return vectors[first : last + 1] if last - first + 1 == len(self.columns) else vectors[self.columns]


class _Candidates:
    """The pairs (query, column) that may be among the best `count` of their query.

    A matrix product in float32 finds them: its error is bounded, and whatever the bound leaves in doubt is kept. The
    few that remain are compared by their similarity in float64, which depends on the two vectors alone and not, as
    that of a matrix product, on their place in it.
    """

    def __init__(self, queries: Vectors, vectors: Vectors, count: int) -> None:
        self._queries, self._vectors, self._count = queries, vectors, count
        self._margin = 2 * 1.01 * vectors.shape[1] * 2.0**-24 + 10.0**-DECIMALS
        self._greatest = numpy.full((len(queries), count), -numpy.inf, numpy.float32)
        """Greatest similarities of `count` groups: so many columns are at least as near as the least of them."""
        self._pending: list[tuple[Numbers, Numbers, Vectors]] = []
        self._num_pending = 0
        self._settled: tuple[Numbers, Numbers, Similarities] = (
            numpy.empty(0, numpy.int64),
            numpy.empty(0, numpy.int64),
            numpy.empty(0),
        )

    def add(self, part: Numbers, similarities: Vectors) -> None:
        """Looks through the similarities of a block of columns, [Q, group, width]; -inf is no candidate."""
        _, group, width = similarities.shape
        greatest = similarities.max(axis=1)
        both = numpy.concatenate([self._greatest, greatest], axis=1)
        self._greatest = numpy.partition(both, -self._count, axis=1)[:, -self._count :]
        least = self._least()
        queries, groups = numpy.nonzero(greatest >= least[:, None])
        step = MAX_PENDING // group
        for start in range(0, len(queries), step):
            of_query, of_group = queries[start : start + step], groups[start : start + step]
            members = similarities[of_query, :, of_group]
            pair, member = numpy.nonzero(members >= least[of_query][:, None])
            self._pending.append((of_query[pair], part[member * width + of_group[pair]], members[pair, member]))
            self._num_pending += len(pair)
            if self._num_pending > MAX_PENDING:
                self._settle()

    def best(self) -> tuple[Numbers, Similarities]:
        """Returns columns and similarities of the best, both [Q, count]."""
        self._settle()
        queries, columns, similarities = self._settled
        chosen = numpy.full(self._greatest.shape, -1, numpy.int64)
        values = numpy.full(self._greatest.shape, -numpy.inf)
        rank = _rank(queries)
        chosen[queries, rank], values[queries, rank] = columns, similarities
        return chosen, values

    def _least(self) -> Vectors:
        """Returns per query the product below which a column cannot be among the best; above -inf in any case."""
        return numpy.maximum(self._greatest.min(axis=1) - numpy.float32(self._margin), numpy.float32(-2))

    def _settle(self) -> None:
        """Replaces the pending pairs by the best of all so far."""
        if not self._pending:
            return
        queries, columns, products = (numpy.concatenate(one) for one in zip(*self._pending, strict=True))
        self._pending, self._num_pending = [], 0
        possible = products >= self._least()[queries]
        queries, columns = queries[possible], columns[possible]
        similarities = numpy.empty(len(queries))
        ours = self._queries.astype(numpy.float64)
        for start in range(0, len(queries), PAIRS_PER_STEP):
            step = slice(start, start + PAIRS_PER_STEP)
            theirs = self._vectors[columns[step]].astype(numpy.float64)
            similarities[step] = numpy.einsum("nd,nd->n", ours[queries[step]], theirs)
        pairs = (queries, columns, similarities.round(DECIMALS))
        queries, columns, similarities = (numpy.concatenate(one) for one in zip(self._settled, pairs, strict=True))
        order = numpy.lexsort((columns, -similarities, queries))
        order = order[_rank(queries[order]) < self._count]
        self._settled = queries[order], columns[order], similarities[order]


def _rank(queries: Numbers) -> Numbers:
    """Returns the place of each pair among those of its query; the queries are sorted."""
    return numpy.arange(len(queries)) - numpy.searchsorted(queries, queries)
