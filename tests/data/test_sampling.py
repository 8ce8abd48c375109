"""The sampling rule: against VideoLLaMA2's formulas, and properties for any number of frames and any times."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo2ego.data.sampling import frame_indices, is_evenly_spaced, nearest_frame, span_indices

COUNTS = st.integers(1, 5000)
FRAMES = st.integers(1, 64)
TIMES = st.lists(st.floats(0.005, 3), min_size=1, max_size=60).map(lambda gaps: np.cumsum(gaps) - gaps[0])


def test_sixteen_of_thirty_two_frames_take_the_middle_of_each_segment() -> None:
    assert frame_indices(32, 16) == [1, 3, 5, 7, 9, 11, 13, 15, 16, 18, 20, 22, 24, 26, 28, 30]
    assert frame_indices(32, 16, "videollama2_2024_07") == [1, 3, 5, 7, 9, 11, 13, 15, 16, 18, 20, 22, 24, 26, 28, 30]


def test_ties_go_up_in_the_head_rule_and_down_in_the_older_one() -> None:
    assert frame_indices(2, 1) == [1]  # the middle of 0 … 1 is 0.5
    assert frame_indices(2, 1, "videollama2_2024_07") == [0]


def test_fewer_frames_than_asked_repeat() -> None:
    assert frame_indices(1, 16) == [0] * 16
    assert frame_indices(3, 6) == [0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize(("num_available", "num_frames"), [(0, 16), (5, 0), (-1, 4)])
def test_nothing_to_choose_from_is_an_error(num_available: int, num_frames: int) -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        frame_indices(num_available, num_frames)


@given(COUNTS, FRAMES)
def test_indices_are_ascending_in_range_and_symmetric_within_a_frame(num_available: int, num_frames: int) -> None:
    indices = frame_indices(num_available, num_frames)
    assert len(indices) == num_frames
    assert indices == sorted(indices)
    assert 0 <= indices[0] <= indices[-1] < num_available
    mirrored = [num_available - 1 - index for index in reversed(indices)]
    assert max(abs(a - b) for a, b in zip(indices, mirrored, strict=True)) <= 1


@given(COUNTS, FRAMES)
def test_the_two_rules_differ_by_at_most_one_frame(num_available: int, num_frames: int) -> None:
    new = np.array(frame_indices(num_available, num_frames))
    old = np.array(frame_indices(num_available, num_frames, "videollama2_2024_07"))
    assert np.abs(new - old).max() <= 1


@given(COUNTS)
def test_as_many_as_there_are_returns_every_frame(num_available: int) -> None:
    assert frame_indices(num_available, num_available) == list(range(num_available))


@given(TIMES, st.floats(-5, 200), st.floats(0, 50), FRAMES)
def test_a_span_stays_between_its_nearest_frames(
    times_s: np.ndarray, start_s: float, length_s: float, num_frames: int
) -> None:
    indices = span_indices(times_s, start_s, start_s + length_s, num_frames)
    assert len(indices) == num_frames
    assert indices == sorted(indices)
    assert nearest_frame(times_s, start_s) <= indices[0]
    assert indices[-1] <= nearest_frame(times_s, start_s + length_s)


@given(TIMES, st.floats(-5, 200))
def test_nearest_frame_is_nearest(times_s: np.ndarray, instant_s: float) -> None:
    distances_s = np.abs(times_s - instant_s)
    assert distances_s[nearest_frame(times_s, instant_s)] <= distances_s.min() + 1e-9


@given(st.integers(1, 400), FRAMES, st.integers(0, 1000))
def test_containers_that_round_times_to_milliseconds_give_the_same_frames(
    num_available: int, num_frames: int, offset: int
) -> None:
    exact_s = (np.arange(num_available) + offset) / 30
    rounded_s = np.round(exact_s, 3)
    assert is_evenly_spaced(rounded_s)
    expected = frame_indices(num_available, num_frames)
    assert span_indices(exact_s, None, None, num_frames) == expected
    assert span_indices(rounded_s, None, None, num_frames) == expected


@given(st.integers(3, 300), FRAMES)
def test_the_rule_in_time_agrees_with_the_rule_in_frames(num_available: int, num_frames: int) -> None:
    """One early frame forces the rule in time; it must move the other choices by no more than that frame."""
    times_s = np.arange(num_available) / 30
    uneven_s = times_s.copy()
    uneven_s[1] -= 0.6 / 30
    assert not is_evenly_spaced(uneven_s)
    in_time = np.array(span_indices(uneven_s, None, None, num_frames))
    assert np.abs(in_time - frame_indices(num_available, num_frames)).max() <= 1


def test_uneven_frames_are_chosen_by_time_not_by_number() -> None:
    times_s = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 10.0])
    assert span_indices(times_s, None, None, 4) == [4, 4, 5, 5]


def test_an_empty_span_has_its_nearest_frame_and_the_end_has_the_last() -> None:
    times_s = np.arange(60) / 30
    assert span_indices(times_s, 1.004, 1.004, 4) == [30] * 4
    assert span_indices(times_s, 2.0, 2.0, 2) == [59, 59]
    assert span_indices(times_s, 1.9, 99.0, 3) == [57, 58, 59]
