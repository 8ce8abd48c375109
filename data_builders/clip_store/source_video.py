"""Reads the frames of many spans of one video in a single pass, in order, each frame decoded and resized once."""

from __future__ import annotations

import contextlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy
from numpy.typing import NDArray

from exo2ego.data.decoders import FrameArray, FramePlace, SequentialReader
from exo2ego.data.sampling import span_indices
from exo2ego.data.spans import Span
from exo2ego.data.video import open_reader, read_timed_frames, span_parts
from exo2ego.errors import VideoError

MAX_FRAMES_HELD = 4096
"""Distinct frames of the spans that are read together: 0.8 GB at 336 x 190. Beyond, a second pass begins."""

Beat = Callable[[], None]
"""Called between steps of the work, as a sign of life."""
Fit = Callable[[FrameArray], FrameArray]
"""Turns pictures [T, H, W, 3] of one size into the model's square pictures [T, S, S, 3]."""


@dataclass(frozen=True)
class SpanFrames:
    """The frames that training gets of a span, as square pictures."""

    pictures: list[FrameArray]
    """[S, S, 3] of each distinct frame, in order of time."""
    timestamps_s: list[float]
    """Of all frames that training gets, in its order."""
    source_size: tuple[int, int]
    """Height and width of the video's pictures."""


def read_spans(
    root: Path, video: str, spans: Sequence[Span], num_frames: int, fit: Fit, beat: Beat
) -> Iterator[tuple[Span, SpanFrames | VideoError]]:
    """Yields for every span exactly the frames, or the error, that reading it alone for training gives.

    The spans are of one video, sorted by frame rate and start.
    """
    at_once = max(1, MAX_FRAMES_HELD // num_frames)
    for frame_rate, group in itertools.groupby(spans, lambda span: span.frame_rate):
        alike = list(group)
        for first in range(0, len(alike), at_once):
            part = alike[first : first + at_once]
            try:
                reader = cast("SequentialReader", open_reader(root / video, frame_rate=frame_rate, within=root))
            except VideoError as error:
                yield from ((span, error) for span in part)
                continue
            try:
                yield from _Pass(root, reader, num_frames, fit, beat).read(part)
            finally:
                reader.close()


class _Pass:
    """One pass through a video for some of its spans."""

    def __init__(self, root: Path, reader: SequentialReader, num_frames: int, fit: Fit, beat: Beat) -> None:
        self._root = root
        self._reader = reader
        self._num_frames = num_frames
        self._fit = fit
        self._beat = beat
        self._ticks: dict[Span, list[int]] = {}
        self._timestamps_s: dict[Span, list[float]] = {}
        self._group_of: dict[int, int] = {}
        """The key frame before each tick, the latest that any span's list knows of."""
        self._held: dict[int, tuple[FrameArray, tuple[int, int]]] = {}
        """Square picture and source size of each frame that some span still waits for."""

    def read(self, spans: Sequence[Span]) -> Iterator[tuple[Span, SpanFrames | VideoError]]:
        """Yields the result of every span, as soon as its last frame was decoded."""
        for span in spans:
            try:
                self._list(span)
            except VideoError as error:
                yield span, error
            self._beat()
        completed_by: dict[int, list[Span]] = defaultdict(list)
        last_use: dict[int, int] = {}
        for span, ticks in self._ticks.items():
            last_group = max(self._group_of[tick] for tick in ticks)
            completed_by[last_group].append(span)
            last_use |= {tick: max(last_group, last_use.get(tick, last_group)) for tick in ticks}
        wanted: dict[int, list[int]] = defaultdict(list)
        for tick, group in sorted(self._group_of.items()):
            wanted[group].append(tick)
        for group, group_ticks in sorted(wanted.items()):
            self._decode(group, group_ticks)
            for span in completed_by[group]:
                yield span, self._gather(span)
                self._beat()
            self._held = {tick: kept for tick, kept in self._held.items() if last_use[tick] > group}

    def _list(self, span: Span) -> None:
        """Chooses the frames of a span by the very rule and lists of `read_frames`; raises `VideoError`."""
        places: list[FramePlace] = []
        times_s: list[float] = []
        video = self._root / span.video
        parts = span_parts(video, span.start_s, span.end_s, self._num_frames, span.observation_s)
        for start_s, end_s, count in parts:
            timestamps_s = self._reader.list_frames(start_s, end_s)
            indices = span_indices(timestamps_s, start_s, end_s, count)
            places += self._reader.places(indices)
            times_s += [float(timestamps_s[index]) for index in indices]
        self._ticks[span] = sorted({place.tick for place in places})
        self._timestamps_s[span] = times_s
        for place in places:
            self._group_of[place.tick] = max(place.group, self._group_of.get(place.tick, place.group))

    def _decode(self, group: int, ticks: Sequence[int]) -> None:
        # Of a damaged group some frames stay away: each span that wanted one is then read alone, for its own result.
        with contextlib.suppress(VideoError):
            for tick, picture in self._reader.read_group(group, ticks):
                self._held[tick] = (self._fit(numpy.array(picture[None]))[0], (picture.shape[0], picture.shape[1]))
                self._beat()

    def _gather(self, span: Span) -> SpanFrames | VideoError:
        ticks = self._ticks[span]
        found = [self._held[tick] for tick in ticks if tick in self._held]
        if len(found) < len(ticks) or len({size for _, size in found}) > 1:
            return self._read_alone(span)
        return SpanFrames([picture for picture, _ in found], self._timestamps_s[span], found[0][1])

    def _read_alone(self, span: Span) -> SpanFrames | VideoError:
        try:
            frames, times_s = read_timed_frames(
                self._root / span.video,
                span.start_s,
                span.end_s,
                self._num_frames,
                frame_rate=span.frame_rate,
                observation_s=span.observation_s,
                within=self._root,
            )
        except VideoError as error:
            return error
        places: NDArray[numpy.intp] = numpy.unique(times_s, return_index=True)[1]
        return SpanFrames(list(self._fit(frames[places])), times_s, (frames.shape[1], frames.shape[2]))
