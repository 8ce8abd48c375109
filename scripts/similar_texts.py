"""Near-duplicate texts between two large sets: all pairs of at least a given Jaccard similarity, none missed.

A text is the multiset of its words, order ignored. The join is exact, no MinHash estimate: two sets that are similar
enough share one of their rarest words, early in both (prefix and positional filter of PPJoin, Xiao et al. 2008), so
that only pairs that cannot reach the threshold are skipped. Candidates are compared in blocks: memory stays flat.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

THRESHOLD = (4, 5)
"""The lowest Jaccard similarity of near-duplicates, as a fraction of whole numbers: no rounding decides."""
PAIRS_PER_BLOCK = 1 << 21
NUM_SIGNATURES = 2

Integers = NDArray[numpy.int64]


@dataclass(frozen=True)
class Similar:
    """The best match of one text of the second set in the first."""

    text: int
    """Place in the second set."""
    nearest: int
    """Place in the first set; the earliest of those equally near."""
    similarity: float
    num_matches: int


def words_of(text: str) -> list[str]:
    """Returns the words by which texts are compared: lower case, without punctuation."""
    return re.findall(r"\w+", text.lower())


def similar_texts(
    first: Sequence[Sequence[str]],
    second: Sequence[Sequence[str]],
    threshold: tuple[int, int] = THRESHOLD,
    pairs_per_block: int = PAIRS_PER_BLOCK,
) -> Iterator[Similar]:
    """Yields every text of `second` that has a near-duplicate in `first`; both are given as non-empty word lists."""
    if not first or not second:
        return
    ids = _rarest_first([*first, *second])
    left, right = _Sets(ids[: len(first)]), _Sets(ids[len(first) :])
    index = _PrefixIndex(left, threshold)
    for candidates in index.candidates(right, pairs_per_block):
        yield from _best(*_verified(left, right, *candidates, threshold))


def _rarest_first(texts: Sequence[Sequence[str]]) -> list[Integers]:
    """Returns each text's words as ascending numbers; a rarer word has a lower one, a repeated word several."""
    numbered = []
    for words in texts:
        seen: Counter[str] = Counter()
        marked = []
        for word in words:
            marked.append((word, seen[word]))
            seen[word] += 1
        numbered.append(marked)
    frequency = Counter(token for marked in numbered for token in marked)
    rank = {token: place for place, (token, _) in enumerate(reversed(frequency.most_common()))}
    return [numpy.array(sorted(rank[token] for token in marked), dtype=numpy.int64) for marked in numbered]


class _Sets:
    """Sets of numbers, one behind the other, with their sizes and their parity signatures."""

    def __init__(self, sets: Sequence[Integers]) -> None:
        self.sizes: Integers = numpy.array([len(values) for values in sets], dtype=numpy.int64)
        self.starts: Integers = numpy.concatenate(([0], numpy.cumsum(self.sizes)))
        self.values = numpy.concatenate(sets)
        self.owners = numpy.repeat(numpy.arange(len(sets)), self.sizes)
        bits = (self.values.astype(numpy.uint64) * numpy.uint64(0x9E3779B97F4A7C15)) >> numpy.uint64(57)  # 0 to 127
        self.signatures = [
            numpy.bitwise_xor.reduceat(
                numpy.where(bits // 64 == word, numpy.uint64(1) << bits % 64, numpy.uint64(0)), self.starts[:-1]
            )
            for word in range(NUM_SIGNATURES)
        ]

    def prefixes(self, threshold: tuple[int, int]) -> tuple[Integers, Integers, Integers]:
        """Returns (owner, value, position) of each set's rarest values, one of which every similar set must share."""
        lower, upper = threshold
        needed = -(-lower * self.sizes // upper)
        positions = numpy.arange(len(self.values)) - self.starts[self.owners]
        in_prefix = positions < (self.sizes - needed + 1)[self.owners]
        return self.owners[in_prefix], self.values[in_prefix], positions[in_prefix]


class _PrefixIndex:
    """Finds the sets that share a prefix value with a given one, early enough in both to be similar still."""

    def __init__(self, sets: _Sets, threshold: tuple[int, int]) -> None:
        self._sets = sets
        self._threshold = threshold
        owners, values, positions = sets.prefixes(threshold)
        self._num_sizes = int(sets.sizes.max()) + 1
        self._num_positions = int(positions.max()) + 2
        keys = self._key(values, sets.sizes[owners], positions)
        order = numpy.lexsort((owners, keys))
        self._keys, self._owners = keys[order], owners[order]

    def _key(self, values: Integers, sizes: Integers, positions: Integers) -> Integers:
        return (values * self._num_sizes + sizes) * self._num_positions + positions

    def candidates(self, sets: _Sets, pairs_per_block: int) -> Iterator[tuple[Integers, Integers]]:
        """Yields (place here, place in `sets`) of pairs that may be similar, once each, all of a set in one block."""
        owners, values, positions = sets.prefixes(self._threshold)
        lower, upper = self._threshold
        smallest = -(-lower * sets.sizes // upper)[owners]
        largest = numpy.minimum(upper * sets.sizes // lower, self._num_sizes - 1)[owners]
        num_sizes = numpy.maximum(largest - smallest + 1, 0)
        for part in _blocks(owners, num_sizes, pairs_per_block):
            entries = numpy.repeat(numpy.arange(len(owners))[part], num_sizes[part])
            sizes = smallest[entries] + _counted(num_sizes[part])
            ours = sets.sizes[owners[entries]]
            # If this is the first value that two sets share, they share no more than what follows it in both.
            shared = -(-lower * (ours + sizes) // (lower + upper))
            last = numpy.minimum(sizes - shared, self._num_positions - 1)
            begin = numpy.searchsorted(
                self._keys, self._key(values[entries], sizes, numpy.zeros_like(last)), side="left"
            )
            end = numpy.searchsorted(self._keys, self._key(values[entries], sizes, last), side="right")
            counts = numpy.where(ours - positions[entries] >= shared, numpy.maximum(end - begin, 0), 0)
            for inner in _blocks(owners[entries], counts, pairs_per_block):
                yield self._pairs(sets, owners[entries][inner], begin[inner], counts[inner])

    def _pairs(self, sets: _Sets, owners: Integers, begin: Integers, counts: Integers) -> tuple[Integers, Integers]:
        right = numpy.repeat(owners, counts)
        left = self._owners[numpy.repeat(begin, counts) + _counted(counts)]
        # Each value flips one bit: two signatures differ in at most as many bits as the sets differ in values.
        lower, upper = self._threshold
        most = (self._sets.sizes[left] + sets.sizes[right]) * (upper - lower) // (upper + lower)
        differing = sum(
            numpy.bitwise_count(ours[left] ^ theirs[right]).astype(numpy.int64)
            for ours, theirs in zip(self._sets.signatures, sets.signatures, strict=True)
        )
        near = differing <= most
        keys = numpy.unique(right[near] * len(self._sets.sizes) + left[near])
        return keys % len(self._sets.sizes), keys // len(self._sets.sizes)


def _counted(counts: Integers) -> Integers:
    """Returns 0, 1, … for each count, one behind the other."""
    return numpy.arange(int(counts.sum())) - numpy.repeat(numpy.cumsum(counts) - counts, counts)


def _blocks(owners: Integers, counts: Integers, per_block: int) -> Iterator[slice]:
    """Yields slices of sums up to `per_block`, or of one owner who has more alone; no slice splits an owner."""
    ends = numpy.append(numpy.flatnonzero(numpy.diff(owners)) + 1, len(owners))  # where owners, ascending, change
    totals = numpy.concatenate(([0], numpy.cumsum(counts)))[ends]
    start, done = 0, 0
    while start < len(owners):
        place = int(numpy.searchsorted(totals, done + per_block, side="right")) - 1
        place = max(place, int(numpy.searchsorted(ends, start, side="right")))
        yield slice(start, int(ends[place]))
        start, done = int(ends[place]), int(totals[place])


def _verified(
    left: _Sets, right: _Sets, lefts: Integers, rights: Integers, threshold: tuple[int, int]
) -> tuple[Integers, Integers, Integers, Integers]:
    """Returns (left, right, shared, together) of the pairs that are similar enough; counts are of values."""
    shared = numpy.zeros(len(lefts), dtype=numpy.int64)
    width = int(max(left.values.max(), right.values.max())) + 1
    keys = right.owners * width + right.values  # ascending: owners ascend, and so do the values of each
    sizes = left.sizes[lefts]
    step = max(1, PAIRS_PER_BLOCK // max(1, int(sizes.max(initial=1))))
    for start in range(0, len(lefts), step):
        part = slice(start, start + step)
        pairs = numpy.repeat(numpy.arange(len(lefts))[part], sizes[part])
        wanted = rights[pairs] * width + left.values[left.starts[lefts[pairs]] + _counted(sizes[part])]
        places = numpy.minimum(numpy.searchsorted(keys, wanted), len(keys) - 1)
        shared += numpy.bincount(pairs[keys[places] == wanted], minlength=len(lefts))
    together = sizes + right.sizes[rights] - shared
    lower, upper = threshold
    similar = shared * upper >= together * lower
    return lefts[similar], rights[similar], shared[similar], together[similar]


def _best(lefts: Integers, rights: Integers, shared: Integers, together: Integers) -> Iterator[Similar]:
    similarity = shared / together
    order = numpy.lexsort((lefts, -similarity, rights))
    texts, firsts, counts = numpy.unique(rights[order], return_index=True, return_counts=True)
    for text, first, count in zip(texts, firsts, counts, strict=True):
        best = order[first]
        yield Similar(int(text), int(lefts[best]), float(similarity[best]), int(count))
