"""Whether the videos of records can be read and are long enough for the spans that are wanted of them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from exo2ego.console import track
from exo2ego.data.decoders import END_SLACK_S
from exo2ego.data.spans import Span
from exo2ego.errors import DataError, VideoError
from exo2ego.parallel import in_threads
from exo2ego.records import Record
from exo2ego.storage import JsonlAppender, read_jsonl

SPAN_FAULTS = {
    "too_short": f"the video ends before the span does, by more than {END_SLACK_S} s",
    "no_frame_in_span": "the video ends before the span begins: no frame of it can be shown",
    "no_frame_rate": "a span of a folder of pictures needs its frame_rate",
}


class VideoState(Record):
    """What probing one video or folder of pictures found; size and time tell whether it has changed since."""

    path: str
    """Absolute."""
    size_bytes: int | None = None
    modified_ns: int | None = None
    fault: str = ""
    """The reason of the `VideoError`; empty where it can be read."""
    detail: str = ""
    duration_s: float | None = None
    num_pictures: int | None = None
    """Of a folder of pictures, whose length in seconds depends on the record's frame rate."""


def check_videos(
    media_root: Path, videos: Iterable[str], *, num_workers: int, cache: Path | None
) -> dict[str, VideoState]:
    """Probes every video once, in parallel, and returns the states by path relative to `media_root`.

    What `cache` knows of an unchanged file is not probed again; each new state is appended at once, so that a killed
    check continues. Absent videos are looked for again.
    """
    known = _cached(cache)
    states: dict[str, VideoState] = {}
    remaining = []
    for video in dict.fromkeys(videos):
        former = known.get(os.path.abspath(media_root / video))
        if former is not None and _size_and_time(media_root / video) == (former.size_bytes, former.modified_ns):
            states[video] = former
        else:
            remaining.append(video)
    appender = JsonlAppender(cache) if cache is not None else None
    try:
        probed = in_threads(lambda video: _probe(media_root, video), remaining, num_workers)
        for video, state in track(probed, "checking videos", total=len(remaining)):
            states[video] = state
            if appender is not None and state.size_bytes is not None:
                appender.append(state.to_row())
    finally:
        if appender is not None:
            appender.close()
    return states


def _cached(cache: Path | None) -> dict[str, VideoState]:
    if cache is None or not cache.exists():
        return {}
    JsonlAppender(cache).close()  # cuts off a line that a kill left half-written
    try:
        states = [VideoState.model_validate(row) for row in read_jsonl(cache, "cache of checked videos")]
    except ValidationError as error:
        raise DataError(f"{cache}: is no cache of checked videos; delete it to check all videos again") from error
    return {state.path: state for state in states}


def _size_and_time(path: Path) -> tuple[int | None, int | None]:
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: a NUL character
        return None, None
    return status.st_size, status.st_mtime_ns


def _probe(media_root: Path, video: str) -> tuple[str, VideoState]:
    """Opens a video and decodes its first frame, or the first and last picture of a folder."""
    from exo2ego.data.decoders.frame_folder import FrameFolderReader
    from exo2ego.data.video import locate, probe

    path = media_root / video
    size_bytes, modified_ns = _size_and_time(path)
    state = VideoState(path=os.path.abspath(path), size_bytes=size_bytes, modified_ns=modified_ns)
    try:
        if not locate(path, media_root).is_dir():
            duration_s = probe(path, within=media_root).duration_s
            return video, state.model_copy(update={"duration_s": duration_s})
        folder = FrameFolderReader(path, None, media_root.resolve())
        num_pictures = len(folder.list_frames(None, None))
        folder.read([0, num_pictures - 1])
        return video, state.model_copy(update={"num_pictures": num_pictures})
    except VideoError as error:
        return video, state.model_copy(update={"fault": error.reason, "detail": error.detail})


def span_fault(span: Span, state: VideoState) -> tuple[str, str] | None:
    """Returns (kind, detail) of what stands against reading a span of a readable video, None where nothing does."""
    duration_s = state.duration_s
    wanted_s = [value for value in (span.start_s, span.end_s, span.observation_s) if value is not None]
    if not wanted_s:
        return None
    if state.num_pictures is not None:
        if span.frame_rate is None:
            return "no_frame_rate", f"{state.num_pictures} pictures"
        duration_s = state.num_pictures / span.frame_rate
    assert duration_s is not None
    begins_s = max(span.start_s or 0.0, span.observation_s or 0.0)
    if begins_s > duration_s + END_SLACK_S:
        return "no_frame_in_span", f"wants a frame at {begins_s:.3f} s, the video lasts {duration_s:.3f} s"
    if max(wanted_s) > duration_s + END_SLACK_S:
        return "too_short", f"wanted up to {max(wanted_s):.3f} s, the video lasts {duration_s:.3f} s"
    return None
