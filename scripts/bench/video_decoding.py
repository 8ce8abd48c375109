"""Video to pixels: ours beside the way of VideoLLaMA2 (decord, PIL pad, PIL resize, per-frame normalise) and the floor.

    python scripts/bench/video_decoding.py [--rounds 5] [--clips 12] [--soak 0]

Prints CPU milliseconds per clip of 16 frames at 336 x 336 (median over interleaved rounds), the ratio with a bootstrap
95 % interval, and the greatest difference in pixel levels on the same frames. `--soak N` reads N clips and prints the
growth of memory instead. All videos are generated here.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import decord  # type: ignore[import-not-found, import-untyped, unused-ignore]
import numpy as np
import numpy.typing as npt
import psutil
import torch
from PIL import Image
from rich.table import Table

from exo2ego.console import console
from exo2ego.data.pixels import padding_colour, preprocess, resize
from exo2ego.data.sampling import span_indices
from exo2ego.data.video import read_frames

WIDTH, HEIGHT, FRAME_RATE = 796, 448, 30  # Ego-Exo4D's downscaled 448p exo videos
SIZE, PATCH_SIZE, NUM_FRAMES = 336, 14, 16
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
FrameArray = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Workload:
    """Clips of one length at random times of one file."""

    name: str
    video_s: float
    clip_s: float
    gop: int


WORKLOADS = (
    Workload("0.68 s of 3 min", 180.0, 0.68, 30),  # the mean clip of Ego-ExoClip (Exo2Ego §3.1)
    Workload("0.68 s of 21 min", 1260.0, 0.68, 30),
    Workload("10 s of 3 min, GOP 250", 180.0, 10.0, 250),
)


def render(path: Path, video_s: float, gop: int) -> None:
    """Writes an H.264 file: one textured, moving minute-long loop of whole GOPs, repeated without encoding it again."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (HEIGHT // 8, WIDTH // 4, 3), dtype=np.uint8)
    wide = np.asarray(Image.fromarray(coarse).resize((WIDTH * 2, HEIGHT), Image.Resampling.BICUBIC))
    loop_frames = max(300, gop)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.options = {"g": str(gop), "sc_threshold": "0", "flags": "+cgop"}
        packets = []
        for number in range(loop_frames):
            left = number * 2 % WIDTH
            packets += stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(wide[:, left : left + WIDTH])))
        packets += stream.encode(None)
        for repeat in range(round(video_s * FRAME_RATE / loop_frames)):
            for packet in packets:
                copy = av.Packet(bytes(packet))
                copy.stream, copy.time_base, copy.is_keyframe = stream, Fraction(1, FRAME_RATE), packet.is_keyframe
                copy.pts, copy.dts = packet.pts + repeat * loop_frames, packet.dts + repeat * loop_frames
                container.mux(copy)
