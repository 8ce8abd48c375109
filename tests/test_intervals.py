"""Confidence intervals: against published values, and their coverage by simulation."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exo2ego.intervals import Interval, clustered_interval, student_quantile, wilson_interval

REPEATS = 400


def test_wilson_equals_the_published_example() -> None:
    # Newcombe 1998, Table I: 81 of 263 and 15 of 148
    assert wilson_interval(81 / 263, 263) == Interval(pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))
    assert wilson_interval(15 / 148, 148) == Interval(pytest.approx(0.0624, abs=5e-5), pytest.approx(0.1605, abs=5e-5))


def test_wilson_at_the_ends() -> None:
    assert wilson_interval(0, 20).low == pytest.approx(0, abs=1e-12)
    assert wilson_interval(1, 20).high == pytest.approx(1)


@pytest.mark.parametrize(
    ("degrees", "published"), [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (10, 2.228), (30, 2.042), (120, 1.980)]
)
def test_student_quantile_equals_the_table(degrees: int, published: float) -> None:
    assert student_quantile(degrees) == pytest.approx(published, rel=2e-3)


def test_hand_computed_design_effect() -> None:
    # two videos of two answers, one all right, one all wrong: surplus +-1, variance (1 + 1) / 16 * 2 / 1 = 1/4,
    # binomial 1/16, design effect 4, effective 1, times (1.96 / 12.706)^2
    expected = wilson_interval(0.5, (1.959964 / 12.7062) ** 2)
    found = clustered_interval([True, True, False, False], ["a", "a", "b", "b"])
    assert found.low == pytest.approx(expected.low, abs=1e-4)
    assert found.high == pytest.approx(expected.high, abs=1e-4)


def test_one_video_says_nothing_about_others() -> None:
    assert clustered_interval([True] * 50, ["a"] * 50) == Interval(0.0, 1.0)


def test_all_right_counts_each_video_once() -> None:
    many_questions = clustered_interval([True] * 200, [str(index % 10) for index in range(200)])
    one_question_each = clustered_interval([True] * 10, [str(index) for index in range(10)])
    assert many_questions == one_question_each
    assert many_questions.low < 0.75


@settings(max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcdef")), min_size=2, max_size=60), st.randoms())
def test_holds_the_accuracy_and_ignores_order(answers: list[tuple[bool, str]], random: object) -> None:
    found = clustered_interval([right for right, _ in answers], [video for _, video in answers])
    accuracy = sum(right for right, _ in answers) / len(answers)
    assert 0 <= found.low <= accuracy + 1e-12
    assert accuracy - 1e-12 <= found.high <= 1
    random.shuffle(answers)  # type: ignore[attr-defined]
    again = clustered_interval([right for right, _ in answers], [video for _, video in answers])
    assert again.low == pytest.approx(found.low)
    assert again.high == pytest.approx(found.high)


def _coverage(videos: int, per_video: int, accuracy: float, correlation: float) -> tuple[float, float]:
    """Returns how often the clustered and the plain interval hold the truth (beta-binomial videos)."""
    generator = numpy.random.default_rng(videos * 1000 + int(100 * accuracy) + int(1000 * correlation))
    clustered = plain = 0
    for _ in range(REPEATS):
        sizes = numpy.maximum(1, generator.poisson(per_video, videos))
        if correlation:
            scale = (1 - correlation) / correlation
            rates = generator.beta(accuracy * scale, (1 - accuracy) * scale, videos)
        else:
            rates = numpy.full(videos, accuracy)
        right = numpy.concatenate([generator.random(size) < rate for size, rate in zip(sizes, rates, strict=True)])
        names = numpy.repeat([f"take{index}" for index in range(videos)], sizes)
        found = clustered_interval(right.tolist(), names.tolist())
        clustered += found.low <= accuracy <= found.high
        naive = wilson_interval(float(right.mean()), len(right))
        plain += naive.low <= accuracy <= naive.high
    return clustered / REPEATS, plain / REPEATS


@pytest.mark.parametrize("videos", [6, 20, 100])
@pytest.mark.parametrize("accuracy", [0.2, 0.6])
@pytest.mark.parametrize("correlation", [0.0, 0.1, 0.3])
def test_coverage_is_as_promised(videos: int, accuracy: float, correlation: float) -> None:
    clustered, _ = _coverage(videos, 10, accuracy, correlation)
    assert clustered >= 0.91, "nominal .95, standard error of the simulation .01"


@pytest.mark.parametrize("correlation", [0.0, 0.1, 0.3])
def test_coverage_near_one_is_lower_but_bounded(correlation: float) -> None:
    clustered, _ = _coverage(20, 10, 0.95, correlation)
    assert clustered >= 0.86


def test_ignoring_videos_would_promise_too_much() -> None:
    clustered, plain = _coverage(20, 15, 0.6, 0.3)
    assert plain < 0.75
    assert clustered > 0.92


def test_independent_answers_do_not_widen_it_much() -> None:
    generator = numpy.random.default_rng(0)
    right = (generator.random(600) < 0.5).tolist()
    clustered = clustered_interval(right, [str(index % 100) for index in range(600)])
    plain = wilson_interval(sum(right) / 600, 600)
    assert clustered.high - clustered.low < 1.3 * (plain.high - plain.low)
