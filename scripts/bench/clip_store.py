"""Reading training clips from a clip store against reading them from the source videos.

    python -m scripts.bench.clip_store [--minutes 20] [--clips 60] [--rounds 5] [--cache DIR]

Clips of 0.7 s (the mean of Ego-ExoClip) at random places of a 796 x 448 H.264 video with a key frame every 30 and every
250 frames: a camera moves over a photograph, with sensor noise. Prints CPU milliseconds per clip from file to
the model's normalised pixels (median over interleaved rounds, with a bootstrap 95 % interval of the ratio), frames per
second and core, bytes per clip, the CPU time of building, and how far the pixels differ. Timestamps must be equal.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil
import torch
from PIL import Image
from rich.table import Table

from exo2ego.console import console
from exo2ego.data.clip_store import ClipStore
from exo2ego.data.decoders import FrameArray
from exo2ego.data.pixels import CLIP_MEAN, CLIP_STD, preprocess
from exo2ego.data.spans import Span
from exo2ego.data.video import read_timed_frames
from exo2ego.storage import atomic_path, write_jsonl
from scripts.bench.side_by_side import ratio_interval

WIDTH, HEIGHT, FRAME_RATE = 796, 448, 30
SIZE, PATCH_SIZE, NUM_FRAMES = 336, 14, 16
CLIP_S = 0.7
LOOP_FRAMES = 750  # a multiple of both distances between key frames
GOPS = (30, 250)


def scene() -> Image.Image:
    """Returns the photograph that the camera moves over, as large as its path needs."""
    from matplotlib.cbook import get_sample_data

    with get_sample_data("grace_hopper.jpg") as stream:
        return Image.open(stream).convert("RGB").resize((1024, 1200), Image.Resampling.LANCZOS)


def camera_picture(photograph: Image.Image, turn: float, noise: np.random.Generator) -> FrameArray:
    """Returns what the camera sees at `turn` radians of its closed path, with the noise of a sensor."""
    left, top = int(114 + 113 * np.sin(3 * turn)), int(376 + 375 * np.sin(2 * turn))
    seen = np.asarray(photograph.crop((left, top, left + WIDTH, top + HEIGHT)), dtype=np.float32)
    return (seen + noise.normal(0, 3, (HEIGHT, WIDTH, 1))).clip(0, 255).astype(np.uint8)


def render(path: Path, minutes: float, gop: int) -> None:
    """Writes a video: 25 s of camera movement with noise, encoded once and repeated without encoding it again."""
    noise = np.random.default_rng(0)
    photograph = scene()
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        options = {"preset": "veryfast", "g": str(gop), "keyint_min": str(gop), "sc_threshold": "0"}
        stream = container.add_stream("libx264", rate=FRAME_RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        packets = []
        for number in range(LOOP_FRAMES):
            picture = camera_picture(photograph, 2 * np.pi * number / LOOP_FRAMES, noise)
            packets += stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24"))
        packets += stream.encode(None)
        for repeat in range(round(minutes * 60 * FRAME_RATE / LOOP_FRAMES)):
            for packet in packets:
                copy = av.Packet(bytes(packet))
                copy.stream, copy.time_base, copy.is_keyframe = stream, Fraction(1, FRAME_RATE), packet.is_keyframe
                copy.pts, copy.dts = packet.pts + repeat * LOOP_FRAMES, packet.dts + repeat * LOOP_FRAMES
                container.mux(copy)


def from_source(root: Path, span: Span) -> torch.Tensor:
    """Reads a clip as training does from the video."""
    frames, _ = read_timed_frames(root / span.video, span.start_s, span.end_s, NUM_FRAMES, within=root)
    return preprocess(frames, SIZE, "pad", mean=CLIP_MEAN, std=CLIP_STD, patch_size=PATCH_SIZE)[0]


def from_store(store: ClipStore, span: Span) -> torch.Tensor:
    """Reads a clip as training does from the store."""
    clip = store.read(span)
    return preprocess(
        clip.frames, SIZE, "pad", mean=CLIP_MEAN, std=CLIP_STD, patch_size=PATCH_SIZE, source_size=clip.source_size
    )[0]


def build_store(root: Path, rows: Path, out: Path) -> float:
    """Builds a store with the real command and one worker; returns its CPU seconds."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "data_builders.clip_store", "--clips", rows, "--media-root", root, "--out", out]
    before = psutil.Process().cpu_times()
    subprocess.run([*map(str, command), "--workers", "1"], check=True, stdout=subprocess.DEVNULL)
    after = psutil.Process().cpu_times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def measure(root: Path, store: ClipStore, spans: list[Span], rounds: int) -> tuple[list[float], list[float]]:
    """Returns CPU milliseconds per clip of each round, from the source and from the store, in turns."""
    took: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for times, read in zip(took, (lambda s: from_source(root, s), lambda s: from_store(store, s)), strict=True):
            began = time.process_time()
            for span in spans:
                read(span)
            times.append((time.process_time() - began) / len(spans) * 1000)
    return took


def difference(root: Path, store: ClipStore, spans: list[Span]) -> tuple[float, float, float]:
    """Returns mean, 99th percentile and maximum of the difference in levels of 255; checks the frames' times."""
    levels = 255 * torch.tensor(CLIP_STD).view(3, 1, 1)
    differences = []
    for span in spans:
        _, times_s = read_timed_frames(root / span.video, span.start_s, span.end_s, NUM_FRAMES, within=root)
        if store.read(span).timestamps_s != times_s:
            raise AssertionError(f"{span}: the store holds other frames than the source")
        shown = slice(74, 262)  # the rows that show the video
        differences.append(((from_source(root, span) - from_store(store, span)).abs() * levels)[:, :, shown].flatten())
    values = torch.cat(differences).numpy()
    return float(values.mean()), float(np.percentile(values, 99)), float(values.max())


def main() -> None:
    """Renders the videos, builds the stores, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0, help="length of the video")
    parser.add_argument("--clips", type=int, default=60, help="clips per video and round")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds")
    parser.add_argument("--cache", type=Path, help="folder that keeps the videos for the next run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    columns = ("source (ms)", "store (ms)", "faster", "frames/s", "kB per clip", "building (ms)", "levels")
    table = Table("video", *columns)
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.cache or Path(temporary)
        for gop in GOPS:
            name = f"{arguments.minutes:g}_minutes_gop_{gop}.mp4"
            if not (root / name).exists():
                render(root / name, arguments.minutes, gop)
            starts_s = np.random.default_rng(gop).uniform(0, arguments.minutes * 60 - 1, arguments.clips)
            spans = [Span(name, float(start_s), float(start_s) + CLIP_S) for start_s in starts_s]
            rows = Path(temporary) / f"{gop}.jsonl"
            texts = {"source": "bench", "answer": "-"}
            write_jsonl(
                rows, [{"id": str(n), "video": s[0], "start": s[1], "end": s[2], **texts} for n, s in enumerate(spans)]
            )
            building_s = build_store(root, rows, Path(temporary) / f"store_{gop}")
            store = ClipStore(Path(temporary) / f"store_{gop}")
            source_ms, store_ms = measure(root, store, spans, arguments.rounds)
            mean, high, greatest = difference(root, store, spans[:10])
            size = sum(shard.bytes for shard in store.description.shards) / len(spans)
            rates = [NUM_FRAMES / np.median(values) * 1000 for values in (source_ms, store_ms)]
            table.add_row(
                f"{arguments.minutes:g} min, GOP {gop}",
                f"{np.median(source_ms):.1f}",
                f"{np.median(store_ms):.1f}",
                "{:.2f} ({:.2f}-{:.2f})".format(*ratio_interval(source_ms, store_ms)),
                f"{rates[0]:.0f} -> {rates[1]:.0f}",
                f"{size / 1000:.1f}",
                f"{building_s / len(spans) * 1000:.0f}",
                f"mean {mean:.2f}, 99 % {high:.0f}, max {greatest:.0f}",
            )
    console.print(table)


if __name__ == "__main__":
    main()
