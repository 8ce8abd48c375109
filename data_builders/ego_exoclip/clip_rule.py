"""From narrated instants to time spans (Exo2Ego Eq. 1): pure functions, every undefined case with a named policy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy
from numpy.typing import NDArray

GroupBy = Literal["take", "annotation"]
"""Which narrations are neighbours: all of a take merged (fits the paper's figures), or each annotator's alone."""

ZeroLength = Literal["keep", "widen", "drop"]
"""What becomes of a clip without length (the middle one of three equal timestamps)."""

UndefinedBeta = Literal["half-second", "drop"]
"""What becomes of a sequence without two distinct timestamps: half width 0.5 s (β := α), or no clip."""

FRAME_S = 1 / 30
"""Ego-Exo4D's frame-aligned videos have 30 frames per second in every camera."""

PAPER_ALPHA_S = 1.92
"""Exo2Ego §3.1."""

FloatArray = NDArray[numpy.float64]
BoolArray = NDArray[numpy.bool_]


def beta_s(timestamps_s: Sequence[float]) -> float | None:
    """Returns the mean distance between consecutive narrations of one sequence in seconds (β of Eq. 1).

    None where it is undefined or zero: fewer than two distinct timestamps. Any order of timestamps will do.
    """
    if not timestamps_s:
        return None
    distance_s = max(timestamps_s) - min(timestamps_s)
    return distance_s / (len(timestamps_s) - 1) if distance_s > 0 else None


def alpha_s(betas_s: Iterable[float | None]) -> float | None:
    """Returns the unweighted mean of all defined β in seconds (α of Eq. 1), None if there is none."""
    defined = [beta for beta in betas_s if beta is not None]
    return math.fsum(defined) / len(defined) if defined else None


def half_width_s(beta: float | None, alpha: float | None, undefined_beta: UndefinedBeta) -> float:
    """Returns β / 2α, used as seconds, or NaN for a sequence that makes no clip.

    Where β is undefined, β := α gives half a second.
    """
    if beta is not None and alpha is not None:
        return beta / (2 * alpha)
    return 0.5 if undefined_beta == "half-second" else math.nan


def clip_spans(
    timestamps_s: FloatArray, half_widths_s: FloatArray, durations_s: FloatArray, sequences: NDArray[numpy.int64]
) -> tuple[FloatArray, FloatArray]:
    """Returns start and end of every clip in seconds (Eq. 1), all arrays [N] with rows sorted by sequence, then time.

    A clip reaches half a width to both sides, no further than the neighbouring narrations of its sequence. The first
    and the last of a sequence, whose outer neighbours the paper leaves undefined, end with the video file.
    """
    first = numpy.ones(len(sequences), dtype=bool)
    first[1:] = sequences[1:] != sequences[:-1]
    last = numpy.roll(first, -1)
    previous = numpy.where(first, 0.0, numpy.roll(timestamps_s, 1))
    following = numpy.where(last, durations_s, numpy.roll(timestamps_s, -1))
    starts = numpy.maximum(timestamps_s - half_widths_s, previous)
    ends = numpy.minimum(timestamps_s + half_widths_s, following)
    return numpy.clip(starts, 0.0, durations_s), numpy.clip(ends, 0.0, durations_s)


def outside(timestamps_s: FloatArray, starts_s: FloatArray, ends_s: FloatArray, durations_s: FloatArray) -> BoolArray:
    """Returns which narrations lie so far before or after the video file that no picture of it belongs to them."""
    beyond = (timestamps_s < 0) | (timestamps_s > durations_s)
    return beyond & (ends_s <= starts_s)


def widen(starts_s: FloatArray, ends_s: FloatArray, durations_s: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Returns the spans with every clip without length grown to one frame around its instant, inside the file."""
    zero = ends_s <= starts_s
    start = numpy.clip(starts_s - FRAME_S / 2, 0.0, numpy.maximum(durations_s - FRAME_S, 0.0))
    return numpy.where(zero, start, starts_s), numpy.where(zero, numpy.minimum(start + FRAME_S, durations_s), ends_s)
