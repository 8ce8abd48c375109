"""Decoder back ends behind one protocol: list the frames around a span, then read some of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from exo2ego.errors import VideoError

FrameArray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float64]

MAX_PIXELS = 8192 * 4320  # 8K: more in one picture is a damaged or hostile header
END_SLACK_S = 0.5  # annotated and declared times are rounded, and come from other clocks than the video stream's


class VideoReader(Protocol):
    """One opened video; opened, used and closed in the same process. Every failure is a `VideoError`."""

    def list_frames(self, start_s: float | None, end_s: float | None) -> FloatArray:
        """Returns the times [n], ascending, in seconds from the first frame, of the frames on and around the span.

        The frames nearest to `start_s` and to `end_s` are among them; None means the first and the last frame.
        """
        ...

    def read(self, indices: Sequence[int]) -> FrameArray:
        """Returns the frames [len(indices), H, W, 3], RGB, upright, at these places of the last list."""
        ...

    def close(self) -> None:
        """Releases the file."""
        ...


class FramePlace(NamedTuple):
    """Where in a video one frame lies; places of one video sort in the order of time."""

    group: int
    """The key frame that decoding has to start from."""
    tick: int
    """The frame itself, in the file's own unit of time."""


class SequentialReader(VideoReader, Protocol):
    """A reader that also yields frames of many spans in one pass through the video, each decoded once."""

    def places(self, indices: Sequence[int]) -> list[FramePlace]:
        """Returns where the frames at these places of the last list lie."""
        ...

    def read_group(self, group: int, ticks: Collection[int]) -> Iterator[tuple[int, FrameArray]]:
        """Yields (tick, picture [H, W, 3], RGB, upright) of frames that are decoded from one key frame on."""
        ...


@dataclass(frozen=True)
class VideoInfo:
    """What a video file says of itself; sizes are those of the upright picture."""

    width: int
    height: int
    duration_s: float
    frame_rate: float
    """Frames per second, on average."""
    num_frames: int | None
    """None where the container does not say (WebM, Matroska)."""
    codec: str
    rotation: int
    """Degrees by which stored pictures are turned counter-clockwise to stand upright."""


def require_start_inside(path: Path, start_s: float | None, video_end_s: float) -> None:
    """Raises `VideoError` (empty_span) when the span starts after the end of the video, by more than the slack."""
    if start_s is not None and start_s > video_end_s + END_SLACK_S:
        raise VideoError(
            path, "empty_span", f"the span starts at {start_s} s, but the video lasts only {video_end_s:.3f} s"
        )
