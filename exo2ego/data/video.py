"""Reads N frames of a span of a video, by one rule for files and frame folders, and says what a video file holds."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from exo2ego.data.decoders import END_SLACK_S, FrameArray, VideoInfo, VideoReader
from exo2ego.data.decoders.frame_folder import FrameFolderReader
from exo2ego.data.sampling import SamplingRule, span_indices
from exo2ego.data.spans import Span
from exo2ego.errors import ConfigError, VideoError

DecoderName = Literal["pyav", "decord"]


class LabelledFrames(NamedTuple):
    """The frames of a span, and where in the video they stand."""

    frames: FrameArray
    """[T, H, W, 3], uint8 RGB."""
    times_s: list[float] | None
    """Seconds from the first frame of the video; None for pictures without a frame rate: nobody knows them."""
    labels: list[str]
    """`1.20 s`, or `picture 3`, counted from 0."""


def read_span(root: Path, span: Span, num_frames: int, *, decoder: DecoderName = "pyav") -> LabelledFrames:
    """Returns `num_frames` frames of a span of a video below `root`, as `read_frames` does; raises `VideoError`."""
    path = root / span.video
    frames, places = read_timed_frames(
        path,
        span.start_s,
        span.end_s,
        num_frames,
        decoder=decoder,
        frame_rate=span.frame_rate,
        observation_s=span.observation_s,
        within=root,
    )
    if span.frame_rate is None and path.is_dir():
        return LabelledFrames(frames, None, [f"picture {place:.0f}" for place in places])
    return LabelledFrames(frames, places, [f"{place:.2f} s" for place in places])


def read_frames(
    path: Path,
    start_s: float | None,
    end_s: float | None,
    num_frames: int,
    *,
    decoder: DecoderName = "pyav",
    sampling: SamplingRule = "videollama2",
    frame_rate: float | None = None,
    observation_s: float | None = None,
    within: Path | None = None,
) -> FrameArray:
    """Returns `num_frames` frames [T, H, W, 3], uint8 RGB, upright, of the span, by `sampling.span_indices`.

    Times are seconds from the first frame; None is the start or the end of the video. A folder of pictures is a video
    of `frame_rate` frames per second. With `observation_s` the last frame is the one of that instant, and one fewer
    stand for the span (EgoPlan). `within` is the folder that the file, links followed, must lie in. Opens and closes
    the file here, so that it works in any worker process. Raises `VideoError`, never returns another frame in place
    of one that is missing.
    """
    return read_timed_frames(
        path,
        start_s,
        end_s,
        num_frames,
        decoder=decoder,
        sampling=sampling,
        frame_rate=frame_rate,
        observation_s=observation_s,
        within=within,
    )[0]


def read_timed_frames(
    path: Path,
    start_s: float | None,
    end_s: float | None,
    num_frames: int,
    *,
    decoder: DecoderName = "pyav",
    sampling: SamplingRule = "videollama2",
    frame_rate: float | None = None,
    observation_s: float | None = None,
    within: Path | None = None,
) -> tuple[FrameArray, list[float]]:
    """Returns the frames of `read_frames`, and of each its time in seconds from the first frame of the video.

    The times of a folder of pictures without a frame rate are the pictures' numbers, from 0.
    """
    parts = span_parts(path, start_s, end_s, num_frames, observation_s)
    reader = open_reader(path, decoder=decoder, frame_rate=frame_rate, within=within)
    try:
        frames: list[FrameArray] = []
        times_s: list[float] = []
        for part_start_s, part_end_s, count in parts:
            timestamps_s = reader.list_frames(part_start_s, part_end_s)
            indices = span_indices(timestamps_s, part_start_s, part_end_s, count, rule=sampling)
            frames.append(reader.read(indices))
            times_s += [float(timestamps_s[index]) for index in indices]
    finally:
        reader.close()
    if len({part.shape[1:] for part in frames}) > 1:
        raise VideoError(path, "damaged", "the picture at the observed instant is of another size than the span's")
    return (frames[0] if len(frames) == 1 else np.concatenate(frames)), times_s


def span_parts(
    path: Path, start_s: float | None, end_s: float | None, num_frames: int, observation_s: float | None = None
) -> list[tuple[float | None, float | None, int]]:
    """Returns (start in seconds, end in seconds, number of frames) of the spans that are read one after another.

    Raises `VideoError` (empty_span) for times that are no span.
    """
    _check_span(path, start_s, end_s)
    if observation_s is None:
        return [(start_s, end_s, num_frames)]
    _check_span(path, observation_s, observation_s)
    before = [(start_s, end_s, num_frames - 1)] if num_frames > 1 else []
    return [*before, (observation_s, observation_s, 1)]


def probe(path: Path, *, within: Path | None = None) -> VideoInfo:
    """Opens a video file, decodes its first frame, checks that its last one is there, and returns what it holds.

    Raises `VideoError` as `read_frames` does.
    """
    _require_package("av")
    from exo2ego.data.decoders.pyav import PyAVReader

    reader = PyAVReader(locate(path, within, folder_allowed=False))
    try:
        return reader.info()
    finally:
        reader.close()


def locate(path: Path, within: Path | None = None, *, folder_allowed: bool = True) -> Path:
    """Returns the real path of a video file or frame folder; raises `VideoError` (missing, forbidden_path)."""
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: a loop of links; ValueError: a NUL character
        raise VideoError(path, "missing", f"cannot be found ({getattr(error, 'strerror', None) or error})") from error
    if within is not None and not real.is_relative_to(within.resolve()):
        raise VideoError(path, "forbidden_path", f"leads to {real}, out of {within}")
    if not (real.is_file() or (folder_allowed and real.is_dir())):
        raise VideoError(path, "forbidden_path", "is not a regular file" + (" or a folder" if folder_allowed else ""))
    return real


def _check_span(path: Path, start_s: float | None, end_s: float | None) -> None:
    first_s = 0.0 if start_s is None else start_s
    last_s = max(first_s, 0.0) if end_s is None else end_s
    if not (math.isfinite(first_s) and first_s <= last_s < math.inf and last_s >= -END_SLACK_S):
        raise VideoError(path, "empty_span", f"expected 0 <= start <= end, got {start_s} to {end_s} s")


def open_reader(
    path: Path, *, decoder: DecoderName = "pyav", frame_rate: float | None = None, within: Path | None = None
) -> VideoReader:
    """Opens a video file or a folder of pictures; raises `VideoError`, `ConfigError` where a package is missing."""
    path = locate(path, within)
    if path.is_dir():
        return FrameFolderReader(path, frame_rate, within.resolve() if within is not None else None)
    _require_package("av")
    if decoder == "decord":
        _require_package("decord")
        from exo2ego.data.decoders.decord_process import DecordReader

        return DecordReader(path)
    from exo2ego.data.decoders.pyav import PyAVReader

    return PyAVReader(path)


def _require_package(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        raise ConfigError(f"reading video files needs the package `{name}`: pip install 'exo2ego[video]'")
