"""Videos of every kind with conversations about spans of them, and a clip store made of these in this very process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from data_builders.clip_store import engines
from data_builders.clip_store.options import ClipStoreOptions
from data_builders.clip_store.supervised_worker import Limits
from data_builders.clip_store.video_step import VideoJob, VideoStep
from exo2ego.storage import write_jsonl
from tests.data.generated_videos import cut, picture, write_audio, write_video

NUM_FRAMES = 4
IMAGE_SIZE = 96
UNEVEN_MS = numpy.cumsum(numpy.random.default_rng(1).integers(10, 120, 60)).tolist()
READABLE: dict[str, dict[str, Any]] = {
    "gop12.mp4": {},
    "one_gop.mp4": {"encoder_options": {"g": "250"}},
    "open_gop.mp4": {"encoder_options": {"x264-params": "open-gop=1:bframes=5:b-adapt=0:b-pyramid=normal"}},
    "turned.mp4": {"rotation": 90},
    "late.mp4": {"first_pts": -7},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "uneven.mkv": {"times_ms": UNEVEN_MS},
    "short.mp4": {"num_frames": 1},
}
SPANS = [
    (None, None),
    (0.0, 0.5),
    (0.0, 0.5),
    (0.2, 0.9),
    (0.21, 0.24),
    (0.7, 0.7),
    (1.3, 1.9),
    (1.5, 99.0),
    (50.0, 51.0),
]
FOLDER_RATE = 10.0


def write_corpus(folder: Path) -> tuple[Path, Path]:
    """Writes `videos/` and conversations about each; returns the folder of the videos and the conversations."""
    root = folder / "videos"
    root.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for name, options in READABLE.items():
        write_video(root / name, **options)
        rows += [row(f"{name}/{number}", name, *span) for number, span in enumerate(SPANS)]
    (root / "frames").mkdir()
    for number in range(20):
        Image.fromarray(picture(number)).save(root / "frames" / f"{number:04d}-rgb.png")
    rows += [row(f"frames/{n}", "frames", *span, frame_rate=FOLDER_RATE) for n, span in enumerate(SPANS)]
    rows += [row("frames/all", "frames", None, None)]
    cut(root / "gop12.mp4", root / "cut.mp4", 0.3)
    write_video(root / "index_first.mp4", muxer_options={"movflags": "faststart"})
    cut(root / "index_first.mp4", root / "half.mp4", 0.6)
    write_audio(root / "sound.mp4")
    (root / "text.mp4").write_text("#EXTM3U\nhttp://example.org/a.ts\n")
    (root / "leaves.mp4").symlink_to("/etc/passwd")
    damaged = bytearray((root / "index_first.mp4").read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 800] = bytes(800)
    (root / "damaged.mp4").write_bytes(damaged)
    for name in ("half.mp4", "damaged.mp4", "cut.mp4", "sound.mp4", "text.mp4", "leaves.mp4", "gone.mp4", "../up.mp4"):
        rows += [row(f"{name}/{number}", name, *span) for number, span in enumerate(SPANS)]
    write_jsonl(folder / "conversations.jsonl", rows)
    return root, folder / "conversations.jsonl"


def row(name: str, video: str, start_s: float | None, end_s: float | None, **more: Any) -> dict[str, Any]:
    """Returns the JSON form of a conversation."""
    values = {"id": name, "source": "made_up", "video": video, "start": start_s, "end": end_s, "answer": "Yes."}
    return {**values, **more}


def options_for(root: Path, conversations: Path, out: Path, **more: Any) -> ClipStoreOptions:
    """Returns options for a small store that tolerates failures."""
    values: dict[str, Any] = {"num_frames": NUM_FRAMES, "image_size": IMAGE_SIZE, "max_failure_rate": 1.0, "workers": 1}
    return ClipStoreOptions(clips=[conversations], media_root=root, out=out, **{**values, **more})


def run_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the process engine run its jobs in this process: seconds less per test."""

    def run(step: VideoStep, limits: Limits, jobs: list[VideoJob], num_workers: int) -> Iterator[tuple[VideoJob, int]]:
        del limits, num_workers
        for job in jobs:
            yield job, step.run(job, lambda: None)

    monkeypatch.setattr(engines, "_in_processes", run)


def files_of(store: Path) -> dict[str, bytes]:
    """Returns what a complete store consists of, without the record of when and where it was made."""
    kept = [path for path in store.iterdir() if path.suffix in (".tar", ".arrow", ".jsonl")]
    return {path.name: path.read_bytes() for path in sorted(kept)}
