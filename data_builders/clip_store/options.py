"""The options of the clip store, and which of them decide its bytes."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from exo2ego.config import Config
from exo2ego.data.clip_store import FORMAT_VERSION, Aspect
from exo2ego.storage import hash_file

Views = Literal["ego", "exo"]


class ClipStoreOptions(Config):
    """What to store, how, and with how much machinery."""

    clips: list[Path] = Field(default=[])
    """Clip table (.parquet, .arrow), EgoIT conversations or EgoBench questions (.jsonl); one or several files."""
    media_root: Path = Path()
    """Folder that the video paths in the files are relative to: the training's data.root."""
    out: Path
    """Folder for the store; the same command continues where a run was stopped."""
    views: list[Views] = Field(default=["ego", "exo"], min_length=1)
    """Whose videos: ego (the record's own), exo (a clip's exo_videos, a question's meta.exo_videos)."""
    num_frames: int = Field(default=16, ge=1)
    """Frames per clip that training wants (model.num_frames)."""
    image_size: int = Field(default=336, ge=16, multiple_of=2)
    """Side of the model's square picture, pixels."""
    aspect: Aspect = "pad"
    """How pictures are fit to the square (model.aspect)."""
    pixel_statistics: Literal["clip", "siglip"] = "clip"
    """Whose mean colour pads the pictures: that of the model's vision tower."""
    crf: int = Field(default=16, ge=0, le=40)
    """H.264 quality of the stored clips (constant rate factor): lower is nearer to the source, and larger."""
    shard_mb: float = Field(default=512, gt=0)
    """Size at which a tar shard is closed, 1e6 bytes."""
    workers: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    """Videos that are read at the same time, each in a process of its own."""
    engine: Literal["processes", "ray"] = "processes"
    """processes: on this machine; ray: over a Ray cluster whose machines share the media root and the out folder."""
    ray_address: str | None = None
    """Address of a running Ray cluster (auto: the one of this machine); none given: one is started here and stopped."""
    deadline_s: float = Field(default=60.0, gt=0)
    """Seconds without a sign of life after which a worker counts as hanging and is killed."""
    worker_memory_gb: float = Field(default=4.0, gt=0)
    """Memory that reading one video may take in its process, 1e9 bytes."""
    max_failure_rate: float = Field(default=0.01, ge=0, le=1)
    """Share of clips that may be unreadable or outside their video before the run stops, fraction."""
    ignore_disk_space: bool = False
    """Start although the estimate says that the disk is too small."""
    dry_run: bool = False
    """Print the plan and write nothing."""
    verify: bool = False
    """Check a complete store in `out` against its checksums, and do nothing else."""

    @property
    def shard_bytes(self) -> int:
        """Size at which a tar shard is closed, bytes."""
        return max(1, int(self.shard_mb * 1_000_000))

    @model_validator(mode="after")
    def _has_an_input(self) -> ClipStoreOptions:
        if not self.verify and not (self.clips and "media_root" in self.model_fields_set):
            raise ValueError("give --clips FILE and --media-root DIR (only --verify needs neither)")
        return self

    def made_with(self) -> dict[str, Any]:
        """Returns everything that decides the bytes of the shards; runs that differ in it are never mixed."""
        return {
            "version": FORMAT_VERSION,
            "inputs": sorted(hash_file(path) for path in self.clips),
            "views": sorted(set(self.views)),
            "num_frames": self.num_frames,
            "sampling": "videollama2",
            "image_size": self.image_size,
            "aspect": self.aspect,
            "pixel_statistics": self.pixel_statistics,
            "crf": self.crf,
            "shard_mb": self.shard_mb,
            "torch": importlib.metadata.version("torch"),
            "av": importlib.metadata.version("av"),
        }
