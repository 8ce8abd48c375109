"""Confidence intervals: against published values, and their coverage by simulation."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exo2ego.intervals import (
    Interval,
    average_interval,
    clustered_interval,
    clustered_mean_interval,
    jackknife_interval,
    student_quantile,
    wilson_interval,
)

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


RECIPROCAL_RANKS = numpy.array([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])


def test_hand_computed_mean_interval() -> None:
    # mean .5, surplus of the videos +-.4, variance (.16 + .16) / 16 * 2 = .04: .25 / .04 tosses
    expected = wilson_interval(0.5, 6.25 * (1.959964 / 12.7062) ** 2)
    found = clustered_mean_interval([0.7, 0.7, 0.3, 0.3], ["a", "a", "b", "b"])
    assert found.low == pytest.approx(expected.low, abs=1e-4)
    assert found.high == pytest.approx(expected.high, abs=1e-4)


def test_equal_values_count_each_video_once() -> None:
    assert clustered_mean_interval([0.5] * 40, [str(index) for index in range(40)]).low < 0.4
    assert clustered_mean_interval([1.0] * 40, [str(index % 4) for index in range(40)]).low < 0.6
    assert clustered_mean_interval([0.5] * 40, ["a"] * 40) == Interval(0.0, 1.0)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from("abcdef")), min_size=2, max_size=60))
def test_mean_interval_holds_the_mean(rows: list[tuple[float, str]]) -> None:
    found = clustered_mean_interval([value for value, _ in rows], [video for _, video in rows])
    mean = sum(value for value, _ in rows) / len(rows)
    assert 0 <= found.low <= mean + 1e-12
    assert mean - 1e-12 <= found.high <= 1


def _clustered_rights(
    generator: numpy.random.Generator, videos: int, accuracy: float, correlation: float
) -> tuple[list[bool], list[str]]:
    sizes = numpy.maximum(1, generator.poisson(10, videos))
    scale = (1 - correlation) / correlation
    rates = numpy.repeat(generator.beta(accuracy * scale, (1 - accuracy) * scale, videos), sizes)
    return (generator.random(len(rates)) < rates).tolist(), numpy.repeat(
        [f"take{index}" for index in range(videos)], sizes
    ).tolist()


@pytest.mark.parametrize("videos", [6, 20, 100])
@pytest.mark.parametrize("accuracy", [0.2, 0.6, 0.95])
def test_coverage_of_reciprocal_ranks(videos: int, accuracy: float) -> None:
    generator = numpy.random.default_rng(videos)
    truth = accuracy + (1 - accuracy) * RECIPROCAL_RANKS[1:].mean()
    held = 0
    for _ in range(REPEATS):
        rights, names = _clustered_rights(generator, videos, accuracy, 0.2)
        values = numpy.where(rights, 1.0, generator.choice(RECIPROCAL_RANKS[1:], len(rights)))
        found = clustered_mean_interval(values.tolist(), names)
        held += found.low <= truth <= found.high
    assert held / REPEATS >= 0.88, "nominal .95, standard error of the simulation .01"


def test_coverage_of_an_average_of_tasks_that_share_videos() -> None:
    generator = numpy.random.default_rng(4)
    accuracies = (0.2, 0.5, 0.8)
    held = 0
    for _ in range(REPEATS):
        effects = generator.uniform(-0.2, 0.2, 15)
        parts = []
        for task, accuracy in enumerate(accuracies):
            rates = numpy.repeat(accuracy + effects, 6)
            kind = "shared" if task < 2 else "own"
            rights = (generator.random(len(rates)) < rates).tolist()
            parts.append((rights, numpy.repeat([f"{kind}{index}" for index in range(15)], 6).tolist()))
            if kind == "shared" and task == 1:
                effects = generator.uniform(-0.2, 0.2, 15)
        found = average_interval(parts, (0, 1))
        held += found.low <= 0.5 <= found.high
    assert held / REPEATS >= 0.92


def test_an_average_of_one_task_is_that_task_s_t_interval() -> None:
    values, names = [0.2, 0.9, 0.4, 0.6], ["a", "b", "c", "d"]
    found = average_interval([(values, names)], (0, 1))
    error = float(numpy.std(values, ddof=1)) / 2
    assert found.high - found.low == pytest.approx(2 * student_quantile(3) * error)
    assert average_interval([(values, names), ([0.5] * 3, ["a"] * 3)], (0, 1)) == Interval(0, 1)


def test_jackknife_of_a_mean_is_its_t_interval() -> None:
    values = numpy.random.default_rng(0).uniform(0.3, 0.7, 30)
    names = [f"{index:02d}" for index in range(30)]
    found = jackknife_interval(lambda kept: float(values[kept].mean()), names)
    error = float(values.std(ddof=1)) / numpy.sqrt(30)
    assert found.low == pytest.approx(values.mean() - student_quantile(29) * error)
    assert found.high == pytest.approx(values.mean() + student_quantile(29) * error)
    assert jackknife_interval(lambda kept: 0.5, ["a"] * 5) == Interval(0.0, 1.0)
