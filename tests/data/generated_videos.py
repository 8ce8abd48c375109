"""Videos of every kind for tests: each frame carries its own number as a bar code, so that any frame can be told."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

FrameArray = npt.NDArray[np.uint8]

FRAME_RATE = 30
WIDTH, HEIGHT = 160, 96
BIT_WIDTH = 20  # eight bars across the picture, in its upper half


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> FrameArray:
    """Returns frame `number`: eight black or white bars above a moving texture."""
    texture = np.random.default_rng(0).integers(60, 200, (height // 8, width // 8, 3), dtype=np.uint8)
    frame = np.roll(np.kron(texture, np.ones((8, 8, 1), dtype=np.uint8)), number * 2, axis=1).copy()
    for bit in range(8):
        frame[: height // 2, bit * BIT_WIDTH : (bit + 1) * BIT_WIDTH] = 255 if number >> bit & 1 else 0
    return frame


def numbers(frames: FrameArray) -> list[int]:
    """Reads the frame numbers off upright frames [T, H, W, 3]."""
    height = frames.shape[1]
    bars = frames[:, height // 8 : height * 3 // 8, :, 1].mean(axis=1)
    centres = bars[:, BIT_WIDTH // 2 :: BIT_WIDTH] > 128
    return [int(sum(1 << bit for bit in range(8) if row[bit])) for row in centres]


def write_video(
    path: Path,
    num_frames: int = 60,
    *,
    codec: str = "libx264",
    times_ms: Sequence[int] | None = None,
    rotation: int | None = None,
    audio: bool = False,
    muxer_options: dict[str, str] | None = None,
    encoder_options: dict[str, str] | None = None,
    first_pts: int = 0,
) -> Path:
    """Encodes `num_frames` numbered pictures at 30 fps, or at the given times; the suffix chooses the container.

    With a negative `first_pts`, an mp4 gets an edit list that hides the pictures before 0.
    """
    tick = Fraction(1, FRAME_RATE) if times_ms is None else Fraction(1, 1000)
    with av.open(str(path), "w", options=muxer_options or {}) as container:
        sound = container.add_stream("aac", rate=16000) if audio else None
        stream = container.add_stream(codec, rate=FRAME_RATE, options={"g": "12", **(encoder_options or {})})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        if times_ms is not None:
            stream.codec_context.time_base = tick
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if sound is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), dtype=np.float32), format="fltp", layout="mono")
            silence.sample_rate = 16000
            container.mux(sound.encode(silence))
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.time_base, frame.pts = tick, number + first_pts if times_ms is None else times_ms[number]
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            container.mux(sound.encode(None))
    return path


def write_audio(path: Path) -> Path:
    """Encodes one second of silence without any video."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=16000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), dtype=np.float32), format="fltp", layout="mono")
        silence.sample_rate = 16000
        container.mux(sound.encode(silence))
        container.mux(sound.encode(None))
    return path


def cut(source: Path, target: Path, share: float) -> Path:
    """Writes the first `share` of a file's bytes to `target`, as a broken download does."""
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target
