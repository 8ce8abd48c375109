"""Probing every video of a table before training: opened, first and last frame decoded, in parallel, resumable."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from exo2ego.console import track
from exo2ego.errors import DataError
from exo2ego.parallel import in_threads
from exo2ego.records import Record
from exo2ego.storage import JsonlAppender, read_jsonl

MAX_MISSING_END_S = 1.0
"""A video whose last decodable frame lies further before its stated end counts as truncated."""


class VideoState(Record):
    """What probing one video found; `size_bytes` and `modified_ns` tell whether the file has changed since."""

    path: str
    """Relative to the dataset root."""
    state: Literal["readable", "missing", "unreadable", "truncated"]
    detail: str = ""
    size_bytes: int | None = None
    modified_ns: int | None = None
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    duration_s: float | None = None


def check_videos(root: Path, paths: Iterable[str], log_path: Path, *, num_workers: int) -> dict[str, VideoState]:
    """Returns the state of every video, appending each to `log_path` as soon as it is known.

    Videos that the log already holds, unchanged on disk, are not probed again.
    """
    wanted = dict.fromkeys(paths)
    states = {path: state for path, state in _logged(log_path).items() if path in wanted and _is_current(root, state)}
    remaining = [path for path in wanted if path not in states]
    with JsonlAppender(log_path) as log:
        for state in track(
            in_threads(lambda path: probe(root, path), remaining, num_workers), "checking videos", total=len(remaining)
        ):
            states[state.path] = state
            log.append(state.to_row())
    return {path: states[path] for path in wanted}


def _logged(log_path: Path) -> dict[str, VideoState]:
    if not log_path.exists():
        return {}
    JsonlAppender(log_path).close()  # cuts off a line that a kill left half-written
    try:
        states = [VideoState.model_validate(row) for row in read_jsonl(log_path, "log of checked videos")]
    except ValidationError as error:
        raise DataError(
            f"{log_path}: not a log of checked videos ({error.error_count()} unexpected values); "
            "delete it to check all videos again"
        ) from error
    return {state.path: state for state in states}


def _is_current(root: Path, state: VideoState) -> bool:
    size_bytes, modified_ns = _size_and_time(root / state.path)
    return size_bytes is not None and (size_bytes, modified_ns) == (state.size_bytes, state.modified_ns)


def _size_and_time(path: Path) -> tuple[int | None, int | None]:
    try:
        status = path.stat()
    except OSError:
        return None, None
    return status.st_size, status.st_mtime_ns


def probe(root: Path, path: str) -> VideoState:
    """Opens a video and decodes its first and its last frame."""
    import av

    size_bytes, modified_ns = _size_and_time(root / path)
    if size_bytes is None:
        return VideoState(path=path, state="missing", detail="no such file")
    found: dict[str, Any] = {"path": path, "size_bytes": size_bytes, "modified_ns": modified_ns}
    try:
        with av.open(str(root / path), metadata_errors="replace") as container:
            if not container.streams.video:
                return VideoState(**found, state="unreadable", detail="no video stream")
            stream = container.streams.video[0]
            duration_s, last_s = _first_to_last_s(container, stream)
            found |= {"width": stream.width, "height": stream.height, "duration_s": duration_s}
            found["fps"] = float(stream.average_rate) if stream.average_rate else None
    except Exception as error:  # whatever a damaged file provokes in the decoder is what this probe is to report
        detail = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        return VideoState(**found, state="unreadable", detail=detail)
    if last_s is None or duration_s - last_s > MAX_MISSING_END_S:
        reached = (
            "no frame can be decoded" if last_s is None else f"the last frame that can be decoded is at {last_s:.2f} s"
        )
        return VideoState(**found, state="truncated", detail=f"{reached}, the file states {duration_s:.2f} s")
    return VideoState(**found, state="readable")


def _first_to_last_s(container: Any, stream: Any) -> tuple[float, float | None]:
    """Returns the stated duration and the time of the last frame that can be decoded, both in seconds."""
    import av

    start = stream.start_time or 0
    time_base = float(stream.time_base)
    if stream.duration is not None:
        duration_s = stream.duration * time_base
    else:
        duration_s = (container.duration or 0) / av.time_base
    last_s: float | None = None
    for target in (start, start + max(0, int((duration_s - MAX_MISSING_END_S / 2) / time_base))):
        container.seek(target, stream=stream)
        try:
            for frame in container.decode(stream):
                last_s = max(last_s or 0.0, ((frame.pts or start) - start) * time_base)
                if target == start:
                    break
        except av.FFmpegError:
            if last_s is None:
                raise
    return duration_s, last_s
