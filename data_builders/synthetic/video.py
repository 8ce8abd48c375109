"""Writing video files: H.264 as Ego-Exo4D has it (4:2:0, a key frame every half second), or VP9 for `.webm`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import av
import numpy as np

from data_builders.synthetic.config import FRAMES_PER_SECOND
from data_builders.synthetic.rendering import Planes

KEY_FRAME_EVERY = 15
ENCODER_OPTIONS = {
    "preset": "ultrafast",
    "tune": "zerolatency",
    "qp": "24",
    "g": str(KEY_FRAME_EVERY),
    # One thread keeps the bytes the same on every machine; takes are written in parallel instead.
    "x264-params": "scenecut=0:threads=1",
}
WEBM_OPTIONS = {
    "deadline": "realtime",
    "cpu-used": "8",
    "lag-in-frames": "0",
    "crf": "24",
    "b": "0",
    "g": str(KEY_FRAME_EVERY),
    "threads": "1",
}


def write_video(
    path: Path, frames: Iterable[Planes], size: tuple[int, int], frame_rate: int = FRAMES_PER_SECOND
) -> None:
    """Encodes frames of `size` (width, height): VP9 where the name ends in `.webm`, else H.264 in an mp4 file."""
    width, height = size
    is_webm = path.suffix == ".webm"
    with av.open(str(path), "w", format="webm" if is_webm else "mp4") as container:
        codec, options = ("libvpx-vp9", WEBM_OPTIONS) if is_webm else ("libx264", ENCODER_OPTIONS)
        stream = container.add_stream(codec, rate=frame_rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        # One frame is filled again and again: without look-ahead the encoder is done with it when encode() returns.
        frame = av.VideoFrame(width, height, "yuv420p")
        planes = planes_of(frame)
        for number, values in enumerate(frames):
            for plane, value in zip(planes, values, strict=True):
                plane[:] = value
            frame.pts = number
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def read_frames(path: Path, numbers: Sequence[int]) -> Iterator[av.VideoFrame]:
    """Yields the frames of ascending numbers (one may come twice) of a rendered video, from the key frame before."""
    wanted = iter(numbers)
    number = next(wanted, None)
    if number is None:
        return
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        ticks_per_frame = 1 / (stream.time_base * FRAMES_PER_SECOND)
        container.seek(int(number * ticks_per_frame), stream=stream)
        for frame in container.decode(stream):
            assert frame.pts is not None
            while number == round(frame.pts / ticks_per_frame):
                yield frame
                number = next(wanted, None)
                if number is None:
                    return


def video_size(path: Path) -> tuple[int, int]:
    """Returns width and height of a video in pixels."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return stream.width, stream.height


def planes_of(frame: av.VideoFrame) -> Planes:
    """Returns the planes of a frame, as views into it."""
    y, u, v = (
        np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
        for plane in frame.planes
    )
    return y, u, v
