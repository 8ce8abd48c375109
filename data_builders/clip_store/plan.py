"""What a run is going to do and how much disk it needs, from a few clips that are encoded beforehand."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from data_builders.clip_store.engines import run_jobs
from data_builders.clip_store.options import ClipStoreOptions
from data_builders.clip_store.video_step import VideoJob, VideoStep
from exo2ego.errors import DataError

Item = TypeVar("Item")

SAMPLED_VIDEOS = 6
SAMPLED_SPANS = 3
"""Per sampled video."""
INDEX_BYTES = 300
"""Per distinct clip of 16 frames."""
UNKNOWN_BITS_PER_PIXEL = 0.5
"""Where no sampled clip was readable: twice what H.264 takes at the default quality."""


@dataclass(frozen=True)
class Plan:
    """The extent of a run."""

    num_requests: int
    num_spans: int
    num_videos: int
    missing_videos: int
    remaining: Sequence[VideoJob]
    clip_bytes: int
    """Mean of the sampled clips with their tar headers."""

    @property
    def remaining_bytes(self) -> int:
        """Bytes that are still to be written, index included."""
        return sum(len(job.spans) for job in self.remaining) * self.clip_bytes + self.num_spans * INDEX_BYTES

    def needed_bytes(self, options: ClipStoreOptions) -> int:
        """Bytes that must be free: one shard is written before the parts that it is made of are removed."""
        all_bytes = self.num_spans * self.clip_bytes
        return self.remaining_bytes + min(options.shard_bytes, all_bytes)


def make_plan(
    options: ClipStoreOptions, num_requests: int, videos: Sequence[VideoJob], remaining: Sequence[VideoJob]
) -> Plan:
    """Encodes a few clips of the remaining videos, and returns the plan."""
    chosen = _spread(remaining, SAMPLED_VIDEOS)
    samples = [VideoJob(job.video, _spread(job.spans, SAMPLED_SPANS)) for job in chosen]
    measured = [value for _, value in run_jobs(options, VideoStep.of(options, only_measure=True), samples) if value]
    guess = int(options.num_frames * options.image_size**2 * UNKNOWN_BITS_PER_PIXEL / 8)
    return Plan(
        num_requests=num_requests,
        num_spans=sum(len(job.spans) for job in videos),
        num_videos=len(videos),
        missing_videos=sum(not _exists(options.media_root, job.video) for job in videos),
        remaining=remaining,
        clip_bytes=sum(measured) // len(measured) if measured else guess,
    )


def require_room(options: ClipStoreOptions, plan: Plan) -> None:
    """Raises `DataError` where the disk of the output folder is too small for what remains."""
    needed, free = plan.needed_bytes(options), free_bytes(options.out)
    if free < needed and not options.ignore_disk_space:
        raise DataError(
            f"{options.out}: about {needed / 1e9:.2f} GB are needed, only {free / 1e9:.2f} GB are free; free space, "
            "choose another folder, store fewer views or a higher --crf, or give --ignore-disk-space"
        )


def describe_plan(options: ClipStoreOptions, plan: Plan) -> list[str]:
    """Returns the plan as lines for people."""
    total = plan.num_spans * plan.clip_bytes
    missing = f", {plan.missing_videos:,} of them are not there" if plan.missing_videos else ""
    where = f"Ray, {options.workers} at a time" if options.engine == "ray" else f"{options.workers} processes"
    return [
        f"input  {plan.num_requests:,} clips, {plan.num_spans:,} distinct, of {plan.num_videos:,} videos{missing}",
        f"form   {options.num_frames} frames at {options.image_size} px ({options.aspect}), H.264 at crf {options.crf}",
        f"work   {len(plan.remaining):,} videos remain, {where}",
        f"disk   about {plan.clip_bytes / 1e3:.1f} kB per clip, {total / 1e9:.3f} GB in about "
        f"{-(-total // options.shard_bytes):,} shards; needs {plan.needed_bytes(options) / 1e9:.3f} GB, "
        f"{free_bytes(options.out) / 1e9:.1f} GB are free",
    ]


def free_bytes(folder: Path) -> int:
    """Returns the free bytes of the disk on which a folder is or will be."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def _spread(items: Sequence[Item], count: int) -> list[Item]:
    return [items[number * len(items) // min(count, len(items))] for number in range(min(count, len(items)))]


def _exists(root: Path, video: str) -> bool:
    try:
        return (root / video).exists()
    except (OSError, ValueError):
        return False
