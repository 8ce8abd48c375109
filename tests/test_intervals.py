"""Confidence intervals: against published values and by hand; their coverage is in `test_interval_coverage.py`."""

from __future__ import annotations

import math

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exo2ego.intervals import (
    Interval,
    average_interval,
    clustered_interval,
    degrees_of_freedom,
    jackknife_interval,
    linked,
    student_quantile,
    widening,
    wilson_interval,
)

NORMAL_QUANTILE = 1.959964


def close_to(expected: Interval) -> Interval:
    return Interval(pytest.approx(expected.low, abs=1e-4), pytest.approx(expected.high, abs=1e-4))


def test_wilson_equals_the_published_example() -> None:
    # Newcombe 1998, Table I: 81 of 263 and 15 of 148
    assert wilson_interval(81 / 263, 263) == Interval(pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))
    assert wilson_interval(15 / 148, 148) == Interval(pytest.approx(0.0624, abs=5e-5), pytest.approx(0.1605, abs=5e-5))


@pytest.mark.parametrize("count", [0.3, 1, 20, 333.3, 1e6])
def test_wilson_at_the_ends_holds_the_proportion(count: float) -> None:
    none, every = wilson_interval(0, count), wilson_interval(1, count)
    assert none.low == 0 < none.high
    assert every.low < 1 == every.high


@pytest.mark.parametrize(
    ("degrees", "published"), [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (10, 2.228), (30, 2.042), (120, 1.980)]
)
def test_student_quantile_equals_the_table(degrees: int, published: float) -> None:
    assert student_quantile(degrees) == pytest.approx(published, rel=2e-3)
    assert widening(degrees) == pytest.approx(published / NORMAL_QUANTILE, rel=2e-3)
    assert widening(degrees + 0.9) == widening(degrees - 1e-12)


@given(st.lists(st.integers(1, 50), min_size=2, max_size=12))
def test_degrees_of_freedom_are_those_of_the_matrix(sizes: list[int]) -> None:
    """Bell and McCaffrey's from the definition: residuals of a mean, CR2 factors, independent values."""
    count = sum(sizes)
    member = numpy.repeat(numpy.eye(len(sizes)), sizes, axis=0)
    residual = numpy.eye(count) - 1 / count
    adjusted = (member / numpy.sqrt(1 - numpy.array(sizes) / count)).T @ residual
    covariance = adjusted @ adjusted.T
    expected = numpy.trace(covariance) ** 2 / numpy.trace(covariance @ covariance)
    assert degrees_of_freedom(numpy.array(sizes) / count) == pytest.approx(expected)
    assert 1 - 1e-9 <= expected <= len(sizes) - 1 + 1e-9


def test_linked_groups() -> None:
    assert linked([{"a"}, {"b"}, {"a", "c"}, {"d"}, {"c", "b"}]) == [[3], [0, 1, 2, 4]]


def test_hand_computed_design_effect() -> None:
    # without the first video 0, without the second 1: variance (1/4 + 1/4) * 1/2, that of one toss
    expected = wilson_interval(0.5, (NORMAL_QUANTILE / 12.7062) ** 2)
    assert clustered_interval([True, True, False, False], ["a", "a", "b", "b"]) == close_to(expected)


def test_hand_computed_mean_interval() -> None:
    # mean .5, without one of the videos .3 and .7: variance (.04 + .04) / 2, .25 / .04 tosses
    expected = wilson_interval(0.5, 6.25 * (NORMAL_QUANTILE / 12.7062) ** 2)
    assert clustered_interval([0.7, 0.7, 0.3, 0.3], ["a", "a", "b", "b"]) == close_to(expected)


def test_hand_computed_unequal_videos() -> None:
    # mean 5/8; without a video 1/4, 4/6, 5/6: variance (9/64 + 1/576 + 25/576) * 2/3 = .12384;
    # shares 1/2, 1/4, 1/4: degrees 1 / (3/8 + (2/3)^2 - (1/4 + 2/144)) = 1.8, rounded down to 1
    found = clustered_interval([1.0] * 5 + [0.0] * 3, list("aaaabbcc"))
    assert found == close_to(wilson_interval(0.625, 0.234375 / 0.1238426 * (NORMAL_QUANTILE / 12.7062) ** 2))


def test_answers_less_alike_than_chance_do_not_narrow_it() -> None:
    """Every video has one right and one wrong answer: the variance between videos is 0, that of 40 tosses counts."""
    found = clustered_interval([True, False] * 20, [str(index // 2) for index in range(40)])
    assert found == close_to(wilson_interval(0.5, 40 / widening(19) ** 2))


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_equal_values_count_each_video_once(value: float) -> None:
    many = clustered_interval([value] * 200, [str(index % 10) for index in range(200)])
    assert many == close_to(wilson_interval(value, 10 / widening(9) ** 2))
    assert many == clustered_interval([value] * 10, [str(index) for index in range(10)])
    dominated = clustered_interval([value] * 200, [str(max(0, index - 190)) for index in range(200)])
    assert dominated.high - dominated.low > 1.5 * (many.high - many.low), "ten videos, but one has nearly all questions"


def test_what_says_nothing() -> None:
    nothing = Interval(0.0, 1.0)
    assert clustered_interval([], []) == nothing
    assert clustered_interval([True], ["a"]) == nothing
    assert clustered_interval([0.5] * 50, ["a"] * 50) == nothing
    assert average_interval([([0.2, 0.9], ["a", "b"]), ([0.5] * 3, ["a"] * 3)]) == nothing
    assert average_interval([([0.2, 0.9], ["a", "b"]), ([], [])]) == nothing
    assert jackknife_interval(lambda kept: 0.5, ["a"] * 5) == nothing
    assert jackknife_interval(lambda kept: 0.5, []) == nothing


CLUSTERED = st.lists(st.tuples(st.floats(0, 1) | st.sampled_from([0.0, 1.0]), st.sampled_from("abcdef")), max_size=40)


@settings(max_examples=100)
@given(st.lists(CLUSTERED.filter(bool), min_size=1, max_size=4), st.randoms())
def test_holds_the_average_has_a_width_and_ignores_order(parts: list[list[tuple[float, str]]], random: object) -> None:
    found = average_interval([tuple(zip(*part, strict=True)) for part in parts])  # type: ignore[misc]
    mean = sum(sum(value for value, _ in part) / len(part) for part in parts) / len(parts)
    assert 0 <= found.low <= mean + 1e-12
    assert mean - 1e-12 <= found.high <= 1
    assert found.high - found.low > 1e-6
    assert math.isfinite(found.low + found.high)
    for part in [*parts, parts]:
        random.shuffle(part)  # type: ignore[attr-defined]
    again = average_interval([tuple(zip(*part, strict=True)) for part in parts])  # type: ignore[misc]
    assert again.low == pytest.approx(found.low, abs=1e-9)
    assert again.high == pytest.approx(found.high, abs=1e-9)


VALUES, VIDEOS = [0.2, 0.3, 0.9, 0.8, 0.4, 0.6, 0.1], ["a", "a", "b", "b", "b", "c", "d"]


def test_an_average_over_the_same_videos_is_no_surer_than_one_task() -> None:
    alone = clustered_interval(VALUES, VIDEOS)
    assert average_interval([(VALUES, VIDEOS)] * 3) == close_to(alone)
    apart = average_interval([(VALUES, [name + str(task) for name in VIDEOS]) for task in range(3)])
    assert apart.high - apart.low < 0.6 * (alone.high - alone.low)


def test_hand_computed_average_of_two_tasks() -> None:
    # tasks of 2 and 4 videos, one question each: variances 1/4 and 1/12 at 1 and 3 degrees, of the average 1/12 at 1.6
    found = average_interval([([1.0, 0.0], ["a", "b"]), ([1.0, 0.0, 1.0, 0.0], ["c", "d", "e", "f"])])
    assert found == close_to(wilson_interval(0.5, 0.25 / (1 / 12) * (NORMAL_QUANTILE / 12.7062) ** 2))
    # two of 2 and one of 4: variance (1/4 + 1/4 + 1/12) / 9 at (7/12)^2 / (1/16 + 1/16 + 1/432) = 2.7 degrees
    parts = [([1.0, 0.0], ["a", "b"]), ([1.0, 0.0], ["c", "d"]), ([1.0, 0.0, 1.0, 0.0], ["e", "f", "g", "h"])]
    assert average_interval(parts) == close_to(wilson_interval(0.5, 0.25 * 108 / 7 * (NORMAL_QUANTILE / 4.3027) ** 2))


def test_hand_computed_average_of_tasks_that_share_videos() -> None:
    # deviations by video: sqrt(1/8) + sqrt(1/48), minus the same, sqrt(1/48), minus it; the fewer degrees, 1, count
    found = average_interval([([1.0, 0.0], ["a", "b"]), ([1.0, 0.0, 1.0, 0.0], ["a", "b", "c", "d"])])
    variance = ((math.sqrt(1 / 8) + math.sqrt(1 / 48)) ** 2 + 1 / 48) * 2 / 4
    assert found == close_to(wilson_interval(0.5, 0.25 / variance * (NORMAL_QUANTILE / 12.7062) ** 2))


def test_ten_tasks_all_right_leave_room() -> None:
    """Ten tasks of ten questions about two videos each: as twenty answers, with ten degrees of freedom."""
    parts = [([1.0] * 10, [f"{task} {index % 2}" for index in range(10)]) for task in range(10)]
    assert average_interval(parts) == close_to(wilson_interval(1.0, 20 * (NORMAL_QUANTILE / 2.2281) ** 2))
    assert average_interval([([1.0] * 10, ["a", "b"] * 5)] * 10).low < 0.1, "the same two videos in all ten"


def test_jackknife_of_a_mean_is_its_clustered_interval() -> None:
    generator = numpy.random.default_rng(0)
    sizes = numpy.array([1, 2, 3, 5, 8, 13, 21])
    values = numpy.repeat(generator.uniform(0.1, 0.9, len(sizes)), sizes)
    names = numpy.repeat(list("abcdefg"), sizes).tolist()
    found = jackknife_interval(lambda kept: float(values[kept].mean()), names)
    assert found == close_to(clustered_interval(values.tolist(), names))


def test_jackknife_deals_many_videos_to_forty_groups() -> None:
    values = numpy.random.default_rng(0).uniform(0, 1, 100)
    asked = []

    def mean_of(kept: numpy.ndarray) -> float:
        asked.append(int(kept.sum()))
        return float(values[kept].mean())

    found = jackknife_interval(mean_of, [f"{index:03d}" for index in range(100)])
    assert sorted(asked) == [97] * 20 + [98] * 20 + [100]
    expected = clustered_interval(values.tolist(), [f"{index % 40}" for index in range(100)])
    assert found.low == pytest.approx(expected.low, abs=0.01)


def test_jackknife_of_a_number_that_never_changes_has_a_width() -> None:
    found = jackknife_interval(lambda kept: 1.0, [str(index) for index in range(12)])
    assert found == close_to(wilson_interval(1.0, 12 / widening(11) ** 2))
