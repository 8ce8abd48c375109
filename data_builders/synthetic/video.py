"""Writing H.264 files as Ego-Exo4D has them: 30 frames per second, 4:2:0, a key frame every half second."""

from __future__ import annotations

from collections.abc import Iterable
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


def write_video(path: Path, frames: Iterable[Planes], size: tuple[int, int]) -> None:
    """Encodes frames of `size` (width, height) into an mp4 file."""
    width, height = size
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=ENCODER_OPTIONS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        # One frame is filled again and again: without look-ahead the encoder is done with it when encode() returns.
        frame = av.VideoFrame(width, height, "yuv420p")
        planes = [
            np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
            for plane in frame.planes
        ]
        for number, values in enumerate(frames):
            for plane, value in zip(planes, values, strict=True):
                plane[:] = value
            frame.pts = number
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
