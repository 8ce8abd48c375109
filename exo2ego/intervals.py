"""Confidence intervals of accuracies and means when questions about the same video are alike.

Whatever the number, its interval is Wilson's at the number of coin tosses whose mean would vary as much: it stays
between 0 and 1, holds the number, and has a width also where every answer is right. A cluster is a video.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy
from numpy.typing import NDArray

TINY_VARIANCE = 1e-12
"""Below it a variance is the rounding of equal values."""


@dataclass(frozen=True)
class Interval:
    """An interval of proportions."""

    low: float
    high: float


@dataclass(frozen=True)
class _ClusteredMean:
    mean: float
    names: list[str]
    """Of the clusters."""
    weights: NDArray[numpy.float64]
    """The share of the values that each cluster has [clusters]."""
    deviations: NDArray[numpy.float64]
    """By how much each cluster moves the mean [clusters]; the sum of their squares is its variance."""
    independent_variance: float
    """Of the mean if the values of a cluster were not alike."""


def wilson_interval(proportion: float, count: float, confidence: float = 0.95) -> Interval:
    """Returns Wilson's score interval of a proportion among `count` independent answers (`count` may be fractional)."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (proportion + z * z / (2 * count)) / (1 + z * z / count)
    spread = proportion * (1 - proportion) / count + z * z / (4 * count * count)
    half_width = z * math.sqrt(spread) / (1 + z * z / count)
    return Interval(max(0.0, min(proportion, centre - half_width)), min(1.0, max(proportion, centre + half_width)))


def clustered_interval(values: Sequence[float], clusters: Sequence[str], confidence: float = 0.95) -> Interval:
    """Returns the interval of the mean of values from 0 to 1, or of right and wrong, given the cluster of each.

    The variance of the mean is that of the jackknife over clusters (CV3; MacKinnon, Nielsen and Webb 2023), never below
    that of independent values; the number of tosses, m (1 - m) over it, is reduced by (z / t)² (Korn and Graubard 1998)
    at the degrees of freedom of Bell and McCaffrey (2002). Where all values are equal the tosses are Kish's effective
    number of clusters, N² / Σ n². Fewer than two clusters say nothing: [0, 1].
    """
    return average_interval([(values, clusters)], confidence)


def average_interval(parts: Sequence[tuple[Sequence[float], Sequence[str]]], confidence: float = 0.95) -> Interval:
    """Returns the interval of the plain average of several means; a part is its values from 0 to 1 and their clusters.

    As `clustered_interval`; a cluster that occurs in several parts counts as one. The degrees of freedom are Welch and
    Satterthwaite's over groups of parts that share no cluster, each with the fewest of its parts. With a part of fewer
    than two clusters the average says nothing: [0, 1].
    """
    means = [_clustered_mean(values, clusters) for values, clusters in parts if len(set(clusters)) > 1]
    if len(means) < len(parts):
        return Interval(0.0, 1.0)
    variances, degrees, concentration = [], [], 0.0
    for members in linked([set(found.names) for found in means]):
        deviations: dict[str, float] = {}
        weights: dict[str, float] = {}
        for found in (means[member] for member in members):
            for name, deviation, weight in zip(found.names, found.deviations, found.weights, strict=True):
                deviations[name] = deviations.get(name, 0.0) + float(deviation)
                weights[name] = weights.get(name, 0.0) + float(weight)
        independent = sum(means[member].independent_variance for member in members)
        variances.append(max(independent, sum(deviation**2 for deviation in deviations.values())))
        degrees.append(min(degrees_of_freedom(means[member].weights) for member in members))
        concentration += sum(weight**2 for weight in weights.values())
    denominator = sum(variance**2 / degree for variance, degree in zip(variances, degrees, strict=True))
    return _tosses_interval(
        mean=sum(found.mean for found in means) / len(means),
        variance=sum(variances) / len(means) ** 2,
        num_clusters=len(means) ** 2 / concentration,
        degrees=sum(variances) ** 2 / denominator if sum(variances) > TINY_VARIANCE else sum(degrees),
        confidence=confidence,
    )


def jackknife_interval(
    estimate: Callable[[NDArray[numpy.bool_]], float],
    clusters: Sequence[str],
    confidence: float = 0.95,
    max_groups: int = 40,
) -> Interval:
    """Returns the interval of any number from 0 to 1, its variance found by leaving out groups of clusters in turn.

    `estimate` gets the values to keep [N]. Clusters are dealt to at most `max_groups` groups in the order of their
    names; fewer than two say nothing: [0, 1].
    """
    names, cluster_of = numpy.unique(numpy.asarray(clusters), return_inverse=True)
    num_groups = min(max_groups, len(names))
    if num_groups < 2:
        return Interval(0.0, 1.0)
    group_of = cluster_of % num_groups
    weights = numpy.bincount(group_of) / len(group_of)
    whole = estimate(numpy.ones(len(group_of), dtype=bool))
    without = numpy.array([estimate(group_of != group) for group in range(num_groups)])
    variance = float(((without - whole) ** 2).sum()) * (1 - 1 / num_groups)
    effective_groups = 1 / float((weights**2).sum())
    return _tosses_interval(whole, variance, effective_groups, degrees_of_freedom(weights), confidence)


def linked(sets: Sequence[set[str]]) -> list[list[int]]:
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


def degrees_of_freedom(weights: NDArray[numpy.float64]) -> float:
    """Returns Bell and McCaffrey's degrees of freedom of the variance of a mean, n - 1 for n clusters of one size.

    `weights` are the clusters' shares of the values. It is (Σ λ)² / Σ λ² of the eigenvalues λ of the covariance of
    their (CR2) deviations, which has w_g on the diagonal and -w_g w_h / √((1 - w_g)(1 - w_h)) beside it.
    """
    outer = weights**2 / (1 - weights)
    return float(1 / ((weights**2).sum() + outer.sum() ** 2 - (outer**2).sum()))


def student_quantile(degrees: int, confidence: float = 0.95) -> float:
    """Returns the two-sided quantile of Student's t (closed forms; from 3 degrees Abramowitz and Stegun 26.7.5)."""
    if degrees == 1:
        return math.tan(math.pi * confidence / 2)
    if degrees == 2:
        return confidence * math.sqrt(2 / (1 - confidence * confidence))
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees**power for power, term in enumerate(terms, 1))


def widening(degrees: float, confidence: float = 0.95) -> float:
    """Returns how much wider than the normal quantile Student's is, at degrees of freedom rounded down."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return student_quantile(max(1, int(degrees + 1e-9)), confidence) / z


def _clustered_mean(values: Sequence[float], clusters: Sequence[str]) -> _ClusteredMean:
    array = numpy.asarray(values, dtype=float)
    names, cluster_of = numpy.unique(numpy.asarray(clusters), return_inverse=True)
    weights = numpy.bincount(cluster_of) / len(array)
    surplus = array - array.mean()
    deviations = (
        numpy.bincount(cluster_of, weights=surplus) / len(array) / (1 - weights) * math.sqrt(1 - 1 / len(names))
    )
    independent = float((surplus**2).sum()) / len(array) ** 2
    return _ClusteredMean(float(array.mean()), names.tolist(), weights, deviations, independent)


def _tosses_interval(mean: float, variance: float, num_clusters: float, degrees: float, confidence: float) -> Interval:
    """Returns Wilson's interval at the tosses that vary as much; where nothing varies each cluster is a toss."""
    spread = mean * (1 - mean)
    tosses = spread / variance if min(spread, variance) > TINY_VARIANCE else num_clusters
    return wilson_interval(min(1.0, max(0.0, mean)), tosses / widening(degrees, confidence) ** 2, confidence)
