"""GPUs by name, and the sections of a configuration that predictions need (torch-free)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydantic import Field, field_validator

from exo2ego.config import Config


@dataclass(frozen=True)
class Gpu:
    """Peak speed of dense bf16 matrix products, and what the driver shows of the memory."""

    peak_tflops: float
    """1e12 operations per second (data sheet, without sparsity)."""
    memory_gib: float
    """2**30 bytes."""


# words of a device name that do not tell another chip; NVL, D, Laptop, Ti and others do, and have other speeds
_SAME_CHIP = re.compile(r"NVIDIA|GEFORCE|TESLA|SXM\d?|PCIE|OAM|\d+GB|HBM\w*|PG\d+|ACTIVE")

# the longest name that is contained in torch.cuda.get_device_name() wins
GPUS = {
    "A100": Gpu(312, 79.2),
    "A100-40GB": Gpu(312, 39.4),
    "A800": Gpu(312, 79.2),
    "H100": Gpu(989, 79.2),
    "H100 PCIe": Gpu(756, 79.2),
    "H800": Gpu(989, 79.2),
    "H200": Gpu(989, 139.8),
    "B200": Gpu(2250, 178.3),
    "L40S": Gpu(362, 44.4),
    "RTX 4090": Gpu(165, 23.5),
    "RTX 3090": Gpu(71, 23.6),
}


class HardwareOptions(Config):
    """What `--dry-run` predicts for; nothing here changes a run."""

    gpu: str = "A800"
    """Name of the GPU, see exo2ego/train/hardware.py."""
    num_gpus: int = Field(default=16, ge=1)
    """GPUs over all nodes (Exo2Ego §5.1: 16)."""
    utilisation: float = Field(default=0.4, gt=0, le=1)
    """Model FLOPs per second relative to the peak, fraction: 0.2 to 0.4 is usual for such models."""
    peak_tflops: float | None = Field(default=None, gt=0)
    """Peak speed of another GPU, 1e12 operations per second; also what MFU is measured against; null = by name."""
    memory_gib: float | None = Field(default=None, gt=0)
    """Memory of another GPU, 2**30 bytes; null = by name."""

    @field_validator("gpu")
    @classmethod
    def _is_known(cls, gpu: str) -> str:
        if gpu not in GPUS:
            raise ValueError(f"unknown GPU, expected one of {', '.join(GPUS)}; for another, peak_tflops and memory_gib")
        return gpu

    @property
    def resolved(self) -> Gpu:
        """Returns the GPU with what was given explicitly."""
        known = GPUS[self.gpu]
        return Gpu(self.peak_tflops or known.peak_tflops, self.memory_gib or known.memory_gib)


class AssumedOptions(Config):
    """What `--dry-run` takes for granted; the counts of a data.table that is there come before these."""

    num_clips: int | None = Field(default=None, ge=1)
    """Clips or conversations per epoch where data.table does not exist; null = no steps and hours then."""
    num_pairs: int | None = Field(default=None, ge=1)
    """(Clip, exo view) pairs per epoch, likewise."""
    text_tokens: int = Field(default=40, ge=2)
    """Prompt and answer of a sample with its special tokens, tokens."""
    target_tokens: int = Field(default=20, ge=1)
    """Those of them that have loss, tokens."""


def find_gpu(device_name: str) -> Gpu | None:
    """Returns the GPU that a driver's device name stands for, such as NVIDIA A100-SXM4-80GB; None if unknown."""
    words = set(device_name.upper().replace("-", " ").split())
    parts = {name: set(name.upper().replace("-", " ").split()) for name in GPUS}
    found = [name for name, own in parts.items() if own <= words and all(map(_SAME_CHIP.fullmatch, words - own))]
    return GPUS[max(found, key=len)] if found else None
