"""Paired differences: the statistics by hand, against published values, and their coverage by simulation."""

from __future__ import annotations

from itertools import product
from math import comb, hypot

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics import paired_differences
from eval.metrics.paired_differences import difference_interval, mcnemar
from exo2ego.intervals import Interval, clustered_interval, degrees_of_freedom, widening


@pytest.mark.parametrize(("first", "second"), list(product((0, 1, 3, 8), (0, 2, 7))))
def test_mcnemar_is_the_binomial_test(first: int, second: int) -> None:
    total = first + second
    tail = sum(comb(total, k) for k in range(min(first, second) + 1)) / 2**total
    assert mcnemar(first, second) == pytest.approx(min(1.0, 2 * tail))


def test_mcnemar_equals_a_published_value_and_stands_large_counts() -> None:
    # vignette "Exact McNemar's test" of the R package exact2x2: b = 2, c = 9
    assert mcnemar(2, 9) == pytest.approx(0.06543, abs=5e-6)
    assert mcnemar(20_000, 19_000) == pytest.approx(4.2e-7, rel=0.02)  # normal approximation with continuity correction


def test_equal_runs_may_differ_by_what_no_gain_among_as_many_videos_allows() -> None:
    names = [str(index % 12) for index in range(60)]
    found = difference_interval([([0.0] * 60, names)])
    none_of_twelve = clustered_interval([0.0] * 60, names).high
    assert found == Interval(pytest.approx(-none_of_twelve), pytest.approx(none_of_twelve))


def test_equal_answers_of_few_videos_do_not_prove_equal_models() -> None:
    few = difference_interval([([0.0] * 9, ["a", "b", "c"] * 3)])
    many = difference_interval([([0.0] * 900, [f"video{number}" for number in range(300)] * 3)])
    assert 0.5 < few.high <= 1
    assert 0 < many.high < 0.05


def test_rare_gains_reach_as_far_as_gains_and_losses_do() -> None:
    """Two of 40 videos gain, none loses: limits by Zou and Donner from the two proportions; resampling shows less."""
    values, names = [1.0, 1.0] + [0.0] * 38, [str(index) for index in range(40)]
    gain, loss = clustered_interval(values, names), clustered_interval([0.0] * 40, names)
    found = difference_interval([(values, names)])
    assert found.low == pytest.approx(0.05 - hypot(0.05 - gain.low, loss.high))
    assert found.high == pytest.approx(gain.high)
    turned = difference_interval([([-value for value in values], names)])
    assert (turned.low, turned.high) == (pytest.approx(-found.high), pytest.approx(-found.low))


@pytest.mark.parametrize("parts", [[([0.4], ["a"])], [([0.4] * 9, ["a"] * 9)], [([0.4, 1], ["a", "b"]), ([], [])]])
def test_fewer_than_two_videos_say_nothing(parts: list[tuple[list[float], list[str]]]) -> None:
    assert difference_interval(parts) == Interval(-1.0, 1.0)


DIFFERENCES = st.lists(
    st.tuples(st.sampled_from([-1.0, -0.5, 0.0, 1.0]), st.sampled_from("abcdef")), min_size=2, max_size=40
)


@settings(max_examples=25, deadline=None)
@given(DIFFERENCES)
def test_it_is_seeded_holds_the_estimate_has_a_width_and_turns_round(rows: list[tuple[float, str]]) -> None:
    values, videos = [value for value, _ in rows], [video for _, video in rows]
    found = difference_interval([(values, videos)], seed=3)
    assert found == difference_interval([(values, videos)], seed=3)
    assert -1 <= found.low <= numpy.mean(values) <= found.high <= 1
    assert found.high - found.low > 0.01
    turned = difference_interval([([-value for value in values], videos)], seed=3)
    assert turned.low == pytest.approx(-found.high, abs=1e-9)
    assert turned.high == pytest.approx(-found.low, abs=1e-9)


SIZES = ("one", "poisson", "lognormal", "dominated")
"""One question per video; about eight; a median of 7 and a tail; one video with half of all questions."""


def coverage(kind: str, videos: int, gain: float, spread: float, agreement: float) -> float:
    """Returns how often the interval holds the true gain of a run that is better by gain ± spread, video by video.

    `agreement` is the share of questions on which the runs share their luck.
    """
    generator = numpy.random.default_rng(videos)
    held, repeats = 0, 150
    for _ in range(repeats):
        sizes = {
            "one": numpy.ones(videos, dtype=int),
            "poisson": numpy.maximum(1, generator.poisson(8, videos)),
            "lognormal": numpy.maximum(1, generator.lognormal(2, 1.2, videos).astype(int)),
            "dominated": numpy.array([5 * (videos - 1)] + [5] * (videos - 1)),
        }[kind]
        shift = numpy.repeat(generator.uniform(-spread, spread, videos), sizes)
        rate = numpy.repeat(generator.uniform(0.3, 0.6, videos), sizes)
        draw = generator.random(len(rate))
        other = numpy.where(generator.random(len(rate)) < agreement, draw, generator.random(len(rate)))
        values = (draw < rate + gain + shift).astype(float) - (other < rate)
        names = numpy.repeat([f"video{number}" for number in range(videos)], sizes)
        found = difference_interval([(values.tolist(), names.tolist())], seed=1)
        held += found.low <= gain <= found.high
    return held / repeats


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("videos", [5, 12, 40])
@pytest.mark.parametrize(
    ("gain", "spread", "agreement"),
    [(0.0, 0.2, 0.5), (0.15, 0.2, 0.5), (0.15, 0.0, 0.5), (0.03, 0.0, 1.0), (0.0, 0.0, 0.95)],
)
def test_coverage(
    kind: str, videos: int, gain: float, spread: float, agreement: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paired_differences, "NUM_RESAMPLES", 400)
    assert coverage(kind, videos, gain, spread, agreement) >= 0.9, "nominal .95, standard error of the simulation .018"


def test_tasks_that_share_videos_are_drawn_together() -> None:
    generator = numpy.random.default_rng(0)
    effects = generator.normal(0, 0.5, 40).clip(-1, 1).tolist()
    names = [f"v{number}" for number in range(40)]
    apart = difference_interval([(effects, names), (effects, [f"other {name}" for name in names])])
    together = difference_interval([(effects, names), (effects, names)])
    alone = difference_interval([(effects, names)])
    assert together.high - together.low == pytest.approx(alone.high - alone.low, rel=0.05)
    assert apart.high - apart.low < 0.8 * (together.high - together.low)


def test_resamples_of_few_videos_are_widened() -> None:
    """To the standard error of a mean times t / z; one video with half of all questions counts as few videos do."""
    effects = numpy.random.default_rng(0).uniform(-1, 1, 6)
    drawn = paired_differences._resampled_deviations([(effects.tolist(), list("abcdef"))], 0, 0.95)
    assert drawn.std() == pytest.approx(effects.std(ddof=1) / 6**0.5 * widening(5), rel=0.05)
    factor = paired_differences._small_sample_factor(list("aaaaabcdef"), 0.95)
    assert factor == pytest.approx(widening(degrees_of_freedom(numpy.array([0.5] + [0.1] * 5))) / (1 - 0.3) ** 0.5)


def test_a_resample_weighs_every_question_alike() -> None:
    """Two videos of one question among ten videos of another task: the mean is 1 where one of them is drawn, else 0."""
    parts = [(numpy.ones(2), ["v0", "v1"]), (numpy.zeros(10), [f"v{number}" for number in range(10)])]
    drawn = paired_differences._resampled_sum(parts, sorted(parts[1][1]), numpy.random.default_rng(0))
    assert set(drawn.tolist()) == {0.0, 1.0}
    assert drawn.mean() == pytest.approx(1 - 0.8**10, abs=0.02)
