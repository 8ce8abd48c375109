"""Opens a video file that may be hostile: only local mp4, Matroska, WebM and AVI files of a sane picture size."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from exo2ego.data.decoders import MAX_PIXELS
from exo2ego.errors import VideoError

# Without these, FFmpeg follows playlists disguised as .mp4 to other files and opens network addresses.
OPEN_OPTIONS = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi",
    "protocol_whitelist": "file",
    "max_pixels": str(MAX_PIXELS),
}
# The header of an mp4 says all that is needed: without these, FFmpeg decodes a picture just to look at the stream,
# which is most of the cost of opening (7.4 against 0.6 ms at 796 x 448).
MP4_OPTIONS = {"skip_frame": "all", "probesize": "32"}
MP4_MARK = b"ftyp"  # at byte 4
OTHER_MARKS = (b"\x1a\x45\xdf\xa3", b"RIFF")  # Matroska and WebM, AVI; at byte 0


@contextlib.contextmanager
def typed_errors(path: Path, reason: str, detail: str) -> Iterator[None]:
    """Turns what the system and PyAV raise on a bad file into a `VideoError` with this reason."""
    try:
        yield
    except (av.FFmpegError, OSError, ValueError, OverflowError) as error:
        raise VideoError(path, reason, f"{detail} ({getattr(error, 'strerror', None) or error})") from error


def open_video(path: Path) -> tuple[InputContainer, VideoStream]:
    """Opens a file that was checked to lie where it may, and returns it with its video stream, ready to decode.

    Raises `VideoError` (unreadable, truncated, no_video_stream, too_large).
    """
    with typed_errors(path, "unreadable", "cannot be opened"), path.open("rb") as stream:
        head = stream.read(8)
    if not head:
        raise VideoError(path, "unreadable", "the file is empty (0 bytes): download or copy it again")
    is_mp4 = head.endswith(MP4_MARK)
    if is_mp4 or head.startswith(OTHER_MARKS):
        reason, detail = "truncated", "starts like a video but has no readable index: cut off? download it again"
    else:
        reason, detail = "unreadable", "is not an mp4, Matroska, WebM or AVI file"
    options = {**OPEN_OPTIONS, **MP4_OPTIONS} if is_mp4 else OPEN_OPTIONS
    with typed_errors(path, reason, detail):
        container = av.open(str(path), options=options, metadata_errors="replace")
    try:
        with typed_errors(path, "unreadable", "the video stream cannot be set up"):
            return container, _video_stream(path, container)
    except BaseException:
        container.close()
        raise


def _video_stream(path: Path, container: InputContainer) -> VideoStream:
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        raise VideoError(path, "no_video_stream", "has no video stream (an audio file?)")
    stream = streams[0]
    codec = stream.codec_context
    if codec is None or not stream.time_base:
        raise VideoError(path, "unreadable", "its video codec is not known to this FFmpeg")
    if not 0 < codec.width * codec.height <= MAX_PIXELS:
        raise VideoError(
            path, "too_large", f"expected pictures of 1 to {MAX_PIXELS:,} pixels, got {codec.width}x{codec.height}"
        )
    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all
    codec.thread_count = 1  # loader workers are the parallelism; one thread is the least CPU time per clip
    codec.options = {"max_pixels": OPEN_OPTIONS["max_pixels"]}
    return stream


def declared_end_s(container: InputContainer, stream: VideoStream) -> float | None:
    """Returns the time, in seconds from the first frame, at which the file says that its video ends, if it does."""
    assert stream.time_base is not None
    if stream.duration:
        return float(stream.duration * stream.time_base)
    start_s = float((stream.start_time or 0) * stream.time_base)
    clock = stream.metadata.get("DURATION")  # Matroska and WebM, per stream: 00:00:02.000000000
    if clock and re.fullmatch(r"\d+:\d+:\d+(\.\d+)?", clock):
        hours, minutes, seconds = clock.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds) - start_s
    if container.duration and len(container.streams) == 1:
        return container.duration / av.time_base - start_s
    return None
