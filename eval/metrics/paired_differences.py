"""Whether two runs differ on the same questions: McNemar's test, and a bootstrap over videos of paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

from exo2ego.intervals import Interval, average_interval, degrees_of_freedom, linked, widening

NUM_RESAMPLES = 4000
BLOCK_VALUES = 1 << 22
"""Counts drawn at a time: bounds the memory."""

Part = tuple[Sequence[float], Sequence[str]]
"""Differences of a task, each from -1 to 1, and their videos."""


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


def difference_interval(parts: Sequence[Part], seed: int = 0, confidence: float = 0.95) -> Interval:
    """Returns the interval of the average over parts (tasks) of mean paired differences.

    It is that of a bootstrap over videos or that of gains and losses, whichever reaches farther: where few questions
    differ, resampling them shows too little, and where none differs nothing. A part with fewer than two videos says
    nothing: [-1, 1].
    """
    if min(len(set(videos)) for _, videos in parts) < 2:
        return Interval(-1.0, 1.0)
    estimate = sum(float(numpy.mean(differences)) for differences, _ in parts) / len(parts)
    drawn = _resampled_deviations(parts, seed, confidence)
    low, high = numpy.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    below, above = _gains_and_losses(parts, confidence)
    return Interval(max(-1.0, estimate - max(below, -float(low))), min(1.0, estimate + max(above, float(high))))


def _gains_and_losses(parts: Sequence[Part], confidence: float) -> tuple[float, float]:
    """Returns how far an interval reaches below and above the estimate, gain - loss, by Zou and Donner (2008).

    Gain and loss are the averages of positive and of negative differences, each with its interval; the distances to
    their limits are added as squares.
    """
    reach = []
    for sign in (1, -1):
        found = [(numpy.maximum(0, sign * numpy.asarray(differences)), videos) for differences, videos in parts]
        mean = sum(float(values.mean()) for values, _ in found) / len(parts)
        interval = average_interval([(values.tolist(), videos) for values, videos in found], confidence)
        reach.append((mean - interval.low, interval.high - mean))
    (gain_below, gain_above), (loss_below, loss_above) = reach
    return math.hypot(gain_below, loss_above), math.hypot(gain_above, loss_below)


def _resampled_deviations(parts: Sequence[Part], seed: int, confidence: float) -> NDArray[numpy.float64]:
    """Returns by how much each of `NUM_RESAMPLES` resamples deviates from the estimate.

    Videos are drawn with replacement, those of parts that share a video together, and a video brings all its
    questions. The deviations are widened by √(n / (n - 1)) t / z, without which they are too small for few videos
    (Hesterberg 2015); n is the effective number of videos, N² / Σ n², and t has `degrees_of_freedom`.
    """
    arrays = [numpy.asarray(differences, dtype=float) for differences, _ in parts]
    deviations = numpy.zeros(NUM_RESAMPLES)
    generator = numpy.random.default_rng(seed)
    for members in linked([set(videos) for _, videos in parts]):
        names = sorted(set().union(*(parts[member][1] for member in members)))
        drawn = _resampled_sum([(arrays[member], parts[member][1]) for member in members], names, generator)
        whole = sum(float(arrays[member].mean()) for member in members)
        wider = max(_small_sample_factor(parts[member][1], confidence) for member in members)
        deviations += (drawn - whole) * wider / len(parts)
    return deviations


def _small_sample_factor(videos: Sequence[str], confidence: float) -> float:
    weights = numpy.unique(numpy.asarray(videos), return_counts=True)[1] / len(videos)
    return widening(degrees_of_freedom(weights), confidence) / math.sqrt(1 - float((weights**2).sum()))


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
