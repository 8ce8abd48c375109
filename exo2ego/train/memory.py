"""Bytes of weights, gradients and optimiser state per GPU, for plain DDP and DeepSpeed's ZeRO stages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exo2ego.train.zero_file import read_zero_file

STRATEGIES = ("DDP", "ZeRO-1", "ZeRO-2", "ZeRO-3")
DEFAULT_BUCKET = 500_000_000
"""DeepSpeed's elements per gradient message."""
FLOAT32 = 4


@dataclass(frozen=True)
class StaticMemory:
    """Bytes of one GPU that are there in every step."""

    weights: int
    """Trained in float32, frozen in the precision of the run."""
    gradients: int
    masters: int
    """ZeRO's own float32 copy of the weights that a GPU updates; DDP updates the weights themselves."""
    moments: int
    """AdamW's two."""
    buffers: int
    """Of gradients on their way (ZeRO-1, ZeRO-2), of gathered blocks (ZeRO-3)."""

    @property
    def total(self) -> int:
        """Returns the sum."""
        return self.weights + self.gradients + self.masters + self.moments + self.buffers


def static_memory(
    strategy: str, num_trained: int, frozen_bytes: int, num_gpus: int, gathered_bytes: int, zero_file: str | None
) -> StaticMemory:
    """Returns what one of `num_gpus` holds; `gathered_bytes` is the largest block that ZeRO-3 puts together.

    Bucket sizes are those of `zero_file` where there is one, else DeepSpeed's.
    """
    whole = FLOAT32 * num_trained
    if strategy == "DDP":  # gradients are views of its buckets
        return StaticMemory(whole + frozen_bytes, whole, 0, 2 * whole, 0)
    share = -(-whole // num_gpus)
    bucket = DEFAULT_BUCKET
    if zero_file is not None:
        bucket = read_zero_file(Path(zero_file))["zero_optimization"].get("reduce_bucket_size", bucket)
    if strategy == "ZeRO-3":
        weights = share + -(-frozen_bytes // num_gpus)
        return StaticMemory(weights, share, share, 2 * share, 2 * gathered_bytes + FLOAT32 * bucket)
    gradients = whole if strategy == "ZeRO-1" else share
    # overlapping communication alternates between two buffers
    return StaticMemory(whole + frozen_bytes, gradients, share, 2 * share, 2 * FLOAT32 * bucket)
