"""Reads N frames of a span of a video, by one rule for files and frame folders, and says what a video file holds."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Literal

from exo2ego.data.decoders import END_SLACK_S, FrameArray, VideoInfo, VideoReader
from exo2ego.data.decoders.frame_folder import FrameFolderReader
from exo2ego.data.sampling import SamplingRule, span_indices
from exo2ego.errors import ConfigError, VideoError

DecoderName = Literal["pyav", "decord"]


def read_frames(
    path: Path,
    start_s: float | None,
    end_s: float | None,
    num_frames: int,
    *,
    decoder: DecoderName = "pyav",
    sampling: SamplingRule = "videollama2",
    frame_rate: float | None = None,
    within: Path | None = None,
) -> FrameArray:
    """Returns `num_frames` frames [T, H, W, 3], uint8 RGB, upright, of the span, by `sampling.span_indices`.

    Times are seconds from the first frame; None is the start or the end of the video. A folder of pictures is a video
    of `frame_rate` frames per second. `within` is the folder that the file, links followed, must lie in. Opens and
    closes the file here, so that it works in any worker process. Raises `VideoError`, never returns another frame in
    place of one that is missing.
    """
    _check_span(path, start_s, end_s)
    reader = _open(locate(path, within), decoder, frame_rate, within)
    try:
        timestamps_s = reader.list_frames(start_s, end_s)
        return reader.read(span_indices(timestamps_s, start_s, end_s, num_frames, rule=sampling))
    finally:
        reader.close()


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


def _open(path: Path, decoder: DecoderName, frame_rate: float | None, within: Path | None) -> VideoReader:
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
