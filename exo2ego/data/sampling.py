"""Which frames of a video stand for a span of it: VideoLLaMA2's rule, in frames and in seconds; pure functions."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

SamplingRule = Literal["videollama2", "videollama2_2024_07"]
FloatArray = npt.NDArray[np.float64]

TIE_BREAK = 1e-6  # VideoLLaMA2 HEAD adds it before rounding, so that half a frame goes up


def frame_indices(num_available: int, num_frames: int, rule: SamplingRule = "videollama2") -> list[int]:
    """Returns the middle frame of each of `num_frames` equal segments of frames 0 … `num_available - 1`, ascending.

    Fewer frames than segments repeat (VideoLLaMA2 `frame_sample`). `videollama2_2024_07` is the rounding of the code
    that trained the 7B-16F weights; the two differ by at most one frame. Raises `ValueError` without a frame.
    """
    _require_frames(num_available, num_frames)
    segment = (num_available - 1) / num_frames
    bounds = [(segment * i, segment * (i + 1)) for i in range(num_frames)]
    if rule == "videollama2":
        return [round((start + end) / 2 + TIE_BREAK) for start, end in bounds]
    return [(round(start) + round(end)) // 2 for start, end in bounds]


def span_indices(
    timestamps_s: FloatArray,
    start_s: float | None,
    end_s: float | None,
    num_frames: int,
    *,
    rule: SamplingRule = "videollama2",
) -> list[int]:
    """Returns the indices into `timestamps_s` [n] (ascending) of the frames that stand for the span, ascending.

    The span reaches from the frame nearest to `start_s` to the frame nearest to `end_s`, both included (None: the
    first, the last), so that a span of zero length has one frame and a span past the end has the last one. Evenly
    spaced frames follow `frame_indices`; of unevenly spaced ones those nearest to the segments' middles in time are
    taken, which is the same rule where both apply.
    """
    _require_frames(len(timestamps_s), num_frames)
    first = 0 if start_s is None else nearest_frame(timestamps_s, start_s)
    last = len(timestamps_s) - 1 if end_s is None else nearest_frame(timestamps_s, end_s)
    span_s = timestamps_s[first : last + 1]
    _require_frames(len(span_s), num_frames)
    if is_evenly_spaced(span_s):
        return [first + index for index in frame_indices(len(span_s), num_frames, rule)]
    return [first + nearest_frame(span_s, middle_s) for middle_s in segment_middles(span_s[0], span_s[-1], num_frames)]


def segment_middles(first_s: float, last_s: float, num_frames: int) -> list[float]:
    """Returns the middle instants, in seconds, of `num_frames` equal segments between the first and last frame."""
    return [first_s + (last_s - first_s) * (i + 0.5) / num_frames for i in range(num_frames)]


def nearest_frame(timestamps_s: FloatArray, instant_s: float) -> int:
    """Returns the index of the timestamp nearest to `instant_s`; the later one where two are equally near."""
    middles_s = (timestamps_s[1:] + timestamps_s[:-1]) / 2
    return int(np.searchsorted(middles_s, instant_s, side="right"))


def is_evenly_spaced(timestamps_s: FloatArray) -> bool:
    """Says whether every timestamp lies within half a frame of a constant frame rate (containers round to 1 ms)."""
    if len(timestamps_s) < 3:
        return True
    even_s = np.linspace(timestamps_s[0], timestamps_s[-1], len(timestamps_s))
    interval_s = (timestamps_s[-1] - timestamps_s[0]) / (len(timestamps_s) - 1)
    return bool(np.abs(timestamps_s - even_s).max() < interval_s / 2)


def _require_frames(num_available: int, num_frames: int) -> None:
    if num_available < 1 or num_frames < 1:
        raise ValueError(
            f"expected at least one frame to choose from and to return, got {num_available} and {num_frames}"
        )
