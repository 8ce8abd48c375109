"""Batch arithmetic: global batch = GPUs x local batch x accumulation, and the steps (not stated fully: A16)."""

from __future__ import annotations

from dataclasses import dataclass

from exo2ego.errors import ConfigError


@dataclass(frozen=True)
class BatchPlan:
    """How one optimiser step is cut into micro-batches."""

    global_size: int
    local_size: int
    accumulation: int
    world_size: int
    total_steps: int
    warmup_steps: int


def plan_batches(
    *,
    global_size: int,
    local_size: int,
    world_size: int,
    num_samples: int,
    epochs: float,
    warmup_fraction: float,
    max_steps: int | None = None,
) -> BatchPlan:
    """Returns the plan; `local_size` is lowered to the largest divisor that keeps the global batch (stage 3: 8 to 4).

    Every step has a full global batch: their number is rounded to the nearest, and the order of samples runs on into
    the next epoch for the last one. Raises `ConfigError` when the global batch is not a multiple of the GPUs.
    """
    if global_size % world_size:
        raise ConfigError(
            f"batch.global_size {global_size} is not a multiple of the {world_size} processes; "
            f"use one of {[n for n in range(1, world_size + 1) if global_size % n == 0][-3:]} processes or another size"
        )
    per_process = global_size // world_size
    local = max(size for size in range(1, min(local_size, per_process) + 1) if per_process % size == 0)
    total_steps = max(1, round(num_samples * epochs / global_size))
    if max_steps is not None:
        total_steps = min(total_steps, max_steps)
    return BatchPlan(
        global_size=global_size,
        local_size=local,
        accumulation=per_process // local,
        world_size=world_size,
        total_steps=total_steps,
        warmup_steps=round(total_steps * warmup_fraction),
    )
