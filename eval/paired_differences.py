"""Whether two runs differ on the same questions: McNemar's test, and a bootstrap over videos of paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy
from numpy.typing import NDArray

from exo2ego.intervals import Interval, student_quantile

NUM_RESAMPLES = 4000
BLOCK_VALUES = 1 << 22
"""Counts drawn at a time: bounds the memory."""


def mcnemar(only_first: int, only_second: int) -> float:
    """Returns the exact two-sided p-value of McNemar's test, given how many questions only one of the runs got right.

    It treats questions as independent, which flatters it where questions about one video are alike.
    """
    total, fewer = only_first + only_second, min(only_first, only_second)
    if total == 0:
        return 1.0
    logarithms = [
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) - total * math.log(2)
        for k in range(fewer + 1)
    ]
    return min(1.0, 2 * math.fsum(map(math.exp, logarithms)))


def difference_interval(
    parts: Sequence[tuple[Sequence[float], Sequence[str]]], seed: int = 0, confidence: float = 0.95
) -> Interval:
    """Returns the interval of the average over parts (tasks) of mean paired differences, each from -1 to 1.

    A part is its differences and their videos. Videos are drawn with replacement, those of parts that share a video
    together, and a video brings all its questions. The percentiles are widened about the estimate by
    sqrt(n / (n - 1)) t / z for n videos: without it they are too narrow for few videos (Hesterberg 2015). A part with
    one video says nothing: [-1, 1].
    """
    arrays = [numpy.asarray(differences, dtype=float) for differences, _ in parts]
    deviations = numpy.zeros(NUM_RESAMPLES)
    estimate = sum(float(array.mean()) for array in arrays) / len(parts)
    generator = numpy.random.default_rng(seed)
    for members in _linked([set(videos) for _, videos in parts]):
        names = sorted(set().union(*(parts[member][1] for member in members)))
        smallest = min(len(set(parts[member][1])) for member in members)
        if smallest < 2:
            return Interval(-1.0, 1.0)
        drawn = _resampled_sum([(arrays[member], parts[member][1]) for member in members], names, generator)
        whole = sum(float(arrays[member].mean()) for member in members)
        z = NormalDist().inv_cdf((1 + confidence) / 2)
        widening = math.sqrt(smallest / (smallest - 1)) * student_quantile(smallest - 1, confidence) / z
        deviations += (drawn - whole) * widening / len(parts)
    low, high = numpy.quantile(deviations, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(max(-1.0, estimate + float(low)), min(1.0, estimate + float(high)))


def _linked(sets: Sequence[set[str]]) -> list[list[int]]:
    """Returns the places of sets in groups: those that share a member, directly or through others, are together."""
    groups: list[tuple[set[str], list[int]]] = []
    for place, found in enumerate(sets):
        joined, places = set(found), [place]
        for group in [group for group in groups if group[0] & joined]:
            groups.remove(group)
            joined |= group[0]
            places += group[1]
        groups.append((joined, sorted(places)))
    return [places for _, places in groups]


def _resampled_sum(
    parts: Sequence[tuple[NDArray[numpy.float64], Sequence[str]]],
    names: Sequence[str],
    generator: numpy.random.Generator,
) -> NDArray[numpy.float64]:
    """Returns the sum of the parts' means in every resample; a part none of whose videos is drawn adds 0."""
    place = {name: number for number, name in enumerate(names)}
    sums = numpy.zeros((len(names), len(parts)))
    sizes = numpy.zeros((len(names), len(parts)))
    for column, (differences, videos) in enumerate(parts):
        rows = [place[video] for video in videos]
        sums[:, column] = numpy.bincount(rows, weights=differences, minlength=len(names))
        sizes[:, column] = numpy.bincount(rows, minlength=len(names))
    found = []
    block = max(1, BLOCK_VALUES // len(names))
    for start in range(0, NUM_RESAMPLES, block):
        count = min(block, NUM_RESAMPLES - start)
        drawn = generator.multinomial(len(names), numpy.full(len(names), 1 / len(names)), count)
        found.append((drawn @ sums / numpy.maximum(drawn @ sizes, 1)).sum(axis=1))
    return numpy.concatenate(found)
