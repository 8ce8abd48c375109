"""Video to pixels: ours beside VideoLLaMA2's way (decord, PIL pad, PIL image processor), raw decord, and the floor.

    python -m scripts.bench.video_decoding [--rounds 5] [--clips 12] [--soak 0]

Prints CPU milliseconds per clip of 16 frames at 336 x 336 (median over interleaved rounds), the ratio with a bootstrap
95 % interval, and the greatest difference in pixel levels on the same frames. `--soak N` reads N clips and prints the
growth of memory instead. All videos are generated here.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import decord  # type: ignore[import-not-found, import-untyped, unused-ignore]
import numpy as np
import numpy.typing as npt
import psutil
import torch
from PIL import Image
from rich.table import Table
from transformers import CLIPImageProcessorPil

from exo2ego.console import console
from exo2ego.data.pixels import padding_colour, preprocess
from exo2ego.data.sampling import span_indices
from exo2ego.data.video import read_frames
from scripts.bench.side_by_side import ratio_interval

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
    loop_frames = gop * max(1, 300 // gop)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE, options={"preset": "veryfast", "g": str(gop)})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
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


def ours(path: Path, start_s: float, end_s: float) -> torch.Tensor:
    """The path of this package, from the file to normalised pixels."""
    frames = read_frames(path, start_s, end_s, NUM_FRAMES)
    return preprocess(frames, SIZE, "pad", mean=MEAN, std=STD, patch_size=PATCH_SIZE)[0]


def decord_frames(path: Path, start_s: float, end_s: float) -> FrameArray:
    """Opens the file with decord and gets the same frames as ours."""
    reader = decord.VideoReader(str(path), num_threads=1)
    times_s = np.arange(len(reader)) / reader.get_avg_fps()
    frames: FrameArray = reader.get_batch(span_indices(times_s, start_s, end_s, NUM_FRAMES)).asnumpy()
    return frames


def videollama2_style(path: Path, start_s: float, end_s: float) -> torch.Tensor:
    """decord, PIL pad (`expand2square`), and CLIP's PIL image processor, as VideoLLaMA2's `process_video` does."""
    squares = []
    for frame in decord_frames(path, start_s, end_s):
        picture = Image.fromarray(frame)
        side = max(picture.size)
        square = Image.new("RGB", (side, side), padding_colour(MEAN))
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        squares.append(square)
    pixels: torch.Tensor = clip_processor().preprocess(squares, return_tensors="pt")["pixel_values"]
    return pixels


@functools.cache
def clip_processor() -> CLIPImageProcessorPil:
    """Returns the image processor of CLIP ViT-L/14-336."""
    return CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})


def floor(path: Path, start_s: float, end_s: float) -> object:
    """PyAV seeks and decodes until the span's end, and does nothing with the pictures."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        container.seek(round(start_s / float(stream.time_base or 1)), stream=stream)
        for frame in container.decode(stream):
            if frame.time is not None and frame.time > end_s:
                break
    return None


METHODS: dict[str, Callable[[Path, float, float], object]] = {
    "ours": ours,
    "VideoLLaMA2 style": videollama2_style,
    "raw decord, no resize": decord_frames,
    "floor": floor,
}


def level_difference(path: Path, start_s: float, end_s: float) -> tuple[float, float]:
    """Returns the greatest and the mean difference between our pixels and VideoLLaMA2's, in levels of 255."""
    levels = 255 * torch.tensor(STD).view(3, 1, 1)
    difference = (ours(path, start_s, end_s) - videollama2_style(path, start_s, end_s)).abs() * levels
    return float(difference.max()), float(difference.mean())


def measure(path: Path, workload: Workload, rounds: int, clips: int) -> dict[str, list[float]]:
    """Returns the CPU milliseconds per clip of each method in each round; methods take turns on the same clips."""
    rng = np.random.default_rng(1)
    milliseconds: dict[str, list[float]] = {name: [] for name in METHODS}
    for _ in range(rounds):
        starts_s = rng.uniform(0, workload.video_s - workload.clip_s, clips)
        for name, method in METHODS.items():
            began = time.process_time()
            for start_s in starts_s:
                method(path, start_s, start_s + workload.clip_s)
            milliseconds[name].append((time.process_time() - began) / clips * 1e3)
    return milliseconds


def soak(path: Path, num_clips: int, video_s: float) -> None:
    """Reads many clips in this process and prints how resident memory grew after a tenth of them."""
    rng = np.random.default_rng(3)
    process = psutil.Process()
    before = 0
    for number in range(num_clips):
        if number == num_clips // 10:
            before = process.memory_info().rss
        start_s = rng.uniform(0, video_s - 1)
        read_frames(path, start_s, start_s + 0.1, 2)
    grown = process.memory_info().rss - before
    console.print(f"{num_clips} clips: {grown / 1e6:+.1f} MB, {grown / (0.9 * num_clips):+.0f} bytes per clip")


def main() -> None:
    """Renders the videos, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds")
    parser.add_argument("--clips", type=int, default=12, help="clips per round")
    parser.add_argument("--soak", type=int, default=0, metavar="N", help="read N clips and print memory growth instead")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("clip", *(f"{name} (ms)" for name in METHODS), "faster than VideoLLaMA2 style", "x floor", "levels")
    with tempfile.TemporaryDirectory() as folder:
        for number, workload in enumerate(WORKLOADS):
            path = Path(folder) / f"{number}.mp4"
            render(path, workload.video_s, workload.gop)
            if arguments.soak:
                soak(path, arguments.soak, workload.video_s)
                return
            took = measure(path, workload, arguments.rounds, arguments.clips)
            speedup = ratio_interval(took["VideoLLaMA2 style"], took["ours"])
            over_floor = ratio_interval(took["ours"], took["floor"])
            greatest, mean = level_difference(path, 1.0, 1.0 + workload.clip_s)
            table.add_row(
                workload.name,
                *(f"{np.median(values):.1f}" for values in took.values()),
                "{:.2f} ({:.2f}-{:.2f})".format(*speedup),
                "{:.2f} ({:.2f}-{:.2f})".format(*over_floor),
                f"max {greatest:.1f}, mean {mean:.4f}",
            )
    console.print(table)


if __name__ == "__main__":
    main()
