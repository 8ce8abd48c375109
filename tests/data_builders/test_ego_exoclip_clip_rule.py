"""Exo2Ego Eq. 1 and the policies of its edge cases."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_builders.ego_exoclip.clip_rule import FRAME_S, UndefinedBeta, alpha_s, beta_s, half_width_s
from data_builders.ego_exoclip.narrations import TakeBetas
from data_builders.ego_exoclip.table import Clips, Grouping, make_clips

Span = tuple[float, float]


def oracle(times: Sequence[float], half_s: float, duration_s: float) -> list[Span]:
    """Eq. 1 read aloud, for one sorted sequence."""
    spans = []
    for number, time in enumerate(times):
        previous = times[number - 1] if number > 0 else 0.0
        following = times[number + 1] if number + 1 < len(times) else duration_s
        start, end = max(time - half_s, previous), min(time + half_s, following)
        spans.append((min(max(start, 0.0), duration_s), min(max(end, 0.0), duration_s)))
    return spans


def clips_of(
    times: Sequence[float],
    *,
    duration_s: float = 20.0,
    alpha: float | None = 1.92,
    zero_length: str = "keep",
    undefined_beta: UndefinedBeta = "half-second",
) -> Clips:
    """The clips of one take with one annotator."""
    beta = beta_s(times)
    grouping = Grouping("take", [TakeBetas(beta, {0: beta})], alpha, undefined_beta)
    zeros = numpy.zeros(len(times), dtype=numpy.int64)
    centres, durations = numpy.array(times, dtype=float), numpy.full(len(times), duration_s)
    return make_clips(grouping, zero_length, zeros, zeros, centres, durations)  # type: ignore[arg-type]


def spans_of(clips: Clips) -> list[Span]:
    kept = clips.kept
    return list(zip(clips.starts_s[kept].tolist(), clips.ends_s[kept].tolist(), strict=True))


def test_worked_example() -> None:
    times = [1.0, 3.0, 3.0, 9.0]
    assert beta_s(times) == pytest.approx(2.66667, abs=1e-5)
    assert half_width_s(beta_s(times), 1.92, "half-second") == pytest.approx(0.69444, abs=1e-5)
    expected = [(0.30556, 1.69444), (2.30556, 3.0), (3.0, 3.69444), (8.30556, 9.69444)]
    assert spans_of(clips_of(times)) == [pytest.approx(span, abs=1e-5) for span in expected]


def test_alpha_is_the_unweighted_mean_of_the_defined_betas() -> None:
    assert alpha_s([1.0, None, 4.0]) == 2.5
    assert alpha_s([None]) is None
    assert beta_s([5.0]) is None
    assert beta_s([5.0, 5.0, 5.0]) is None
    assert beta_s([]) is None


def test_clips_end_with_the_video() -> None:
    (first_start, _), (_, last_end) = spans_of(clips_of([0.1, 19.9]))
    assert (first_start, last_end) == (0.0, 20.0)


def test_three_equal_timestamps_leave_one_clip_without_length() -> None:
    times = [1.0, 5.0, 5.0, 5.0, 9.0]
    half_s = 2.0 / (2 * 1.92)
    assert spans_of(clips_of(times))[1:4] == [(5 - half_s, 5.0), (5.0, 5.0), (5.0, 5 + half_s)]
    assert spans_of(clips_of(times, zero_length="drop"))[1:3] == [(5 - half_s, 5.0), (5.0, 5 + half_s)]
    widened = spans_of(clips_of(times, zero_length="widen"))
    assert widened[2] == (pytest.approx(5 - FRAME_S / 2), pytest.approx(5 + FRAME_S / 2))
    assert [widened[number] for number in (0, 1, 3, 4)] == [
        spans_of(clips_of(times))[number] for number in (0, 1, 3, 4)
    ]


@pytest.mark.parametrize("instant", [0.0, 20.0])
def test_widened_clips_stay_in_the_video(instant: float) -> None:
    start, end = spans_of(clips_of([instant] * 3, zero_length="widen"))[1]
    assert 0 <= start < end <= 20.0
    assert end - start == pytest.approx(FRAME_S)


@pytest.mark.parametrize("times", [[7.0], [7.0, 7.0]])
def test_takes_without_beta(times: list[float]) -> None:
    spans = spans_of(clips_of(times))
    assert (spans[0][0], spans[-1][1]) == (6.5, 7.5)
    assert spans_of(clips_of(times, undefined_beta="drop")) == []
    assert clips_of(times, undefined_beta="drop").dropped["undefined_beta"].all()
    assert spans_of(clips_of(times, alpha=None)) == spans


def test_narrations_outside_the_video() -> None:
    clips = clips_of([-9.0, -0.1, 10.0, 20.1, 29.0])  # β 9.5, half width 2.47
    assert clips.dropped["outside_the_video"].tolist() == [True, False, False, False, True]
    assert spans_of(clips)[0] == (0.0, pytest.approx(9.5 / 3.84 - 0.1))
    assert spans_of(clips)[-1] == (pytest.approx(20.1 - 9.5 / 3.84), 20.0)


instants = st.lists(st.one_of(st.floats(0, 60), st.integers(0, 12).map(float)), min_size=1, max_size=30)


@given(instants, st.floats(0.05, 20), st.sampled_from(["take", "annotation"]), st.randoms(use_true_random=False))
def test_clips_lie_between_their_neighbours_in_any_row_order(
    times: list[float], alpha: float, group_by: str, shuffler: random.Random
) -> None:
    annotators = [shuffler.randrange(2) for _ in times]
    by_annotation = {
        one: [time for time, own in zip(times, annotators, strict=True) if own == one] for one in {*annotators}
    }
    betas = TakeBetas(beta_s(times), {one: beta_s(own) for one, own in by_annotation.items()})
    grouping = Grouping(group_by, [betas], alpha, "half-second")  # type: ignore[arg-type]
    order = list(range(len(times)))
    shuffler.shuffle(order)
    spans = []
    for rows in (sorted(order, key=times.__getitem__), order):
        centres, annotations = numpy.array(times)[rows], numpy.array(annotators)[rows]
        starts, ends = grouping.spans(numpy.zeros(len(rows), int), annotations, centres, numpy.full(len(rows), 60.0))
        spans.append(sorted(zip(annotations, centres, starts, ends, strict=True)))
        assert numpy.all((starts >= 0) & (starts <= centres) & (centres <= ends) & (ends <= 60))
        for start, end, centre, annotator in zip(starts, ends, centres, annotations, strict=True):
            sequence = by_annotation[annotator] if group_by == "annotation" else times
            assert not [other for other in sequence if start < other < end and other != centre]
    assert spans[0] == spans[1]


def test_ten_thousand_takes_equal_the_brute_force_to_the_last_bit() -> None:
    generator = random.Random(0)
    takes = [
        sorted(round(generator.uniform(0, 100), generator.choice((1, 5))) for _ in range(generator.randrange(1, 25)))
        for _ in range(10_000)
    ]
    betas = [TakeBetas(beta_s(times), {0: beta_s(times)}) for times in takes]
    grouping = Grouping("take", betas, None, "half-second")
    positions = numpy.repeat(numpy.arange(len(takes)), [len(times) for times in takes])
    centres = numpy.concatenate([numpy.array(times) for times in takes])
    starts, ends = grouping.spans(positions, numpy.zeros_like(positions), centres, numpy.full(len(centres), 99.5))
    assert grouping.alpha_s is not None
    halves = [one.merged / (2 * grouping.alpha_s) if one.merged is not None else 0.5 for one in betas]
    expected = [span for times, half in zip(takes, halves, strict=True) for span in oracle(times, half, 99.5)]
    assert list(zip(starts.tolist(), ends.tolist(), strict=True)) == expected
    assert not math.isnan(sum(starts))
