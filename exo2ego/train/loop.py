"""The training loop, the only one: gather a step's micro-batches, divide by global counts, check, update, log, save."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from exo2ego.data.batch import Batch
from exo2ego.data.failures import FailureBudget
from exo2ego.errors import TrainingError
from exo2ego.train.batch_plan import BatchPlan
from exo2ego.train.journal import Journal
from exo2ego.train.objective import Terms, Unit

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

Counts = dict[Unit, float]
Losses = Callable[[nn.Module, Batch], Terms]


@dataclass
class TrainingRun:
    """Everything the loop touches."""

    accelerator: Accelerator
    model: nn.Module
    losses: Losses
    optimizer: Optimizer
    scheduler: LRScheduler
    batches: Iterable[Batch]
    plan: BatchPlan
    max_gradient_norm: float
    journal: Journal
    failures: FailureBudget
    save: Callable[[int], None]
    save_every: int
    start_step: int = 0


def train(run: TrainingRun) -> None:
    """Takes every optimiser step from `start_step` to the plan's end; raises `TrainingError` before a bad update."""
    batches = iter(run.batches)
    run.model.train()
    for step in range(run.start_step + 1, run.plan.total_steps + 1):
        began = time.perf_counter()
        micro_batches = [_next(run, batches) for _ in range(run.plan.accumulation)]
        waited_s = time.perf_counter() - began
        metrics = take_step(run, step, micro_batches)
        seconds = time.perf_counter() - began
        metrics |= {
            "samples_per_s": run.plan.global_size / seconds,
            "tokens_per_s": metrics["sequence_tokens"] / seconds,
            "data_wait_share": waited_s / seconds,
            "peak_memory_gb": peak_memory_gb(),
            "seconds": seconds,
        }
        run.journal.record(step, metrics)
        if step % run.save_every == 0 or step == run.plan.total_steps:
            run.save(step)


def take_step(run: TrainingRun, step: int, micro_batches: list[Batch]) -> dict[str, float]:
    """Takes one optimiser step over the micro-batches and returns its metrics."""
    accelerator = run.accelerator
    micro_batches = [batch.to(accelerator.device) for batch in micro_batches]
    counts, sequence_tokens = global_counts(accelerator, micro_batches)
    if not counts["target_token"]:
        ids = [sample for batch in micro_batches for sample in batch.sample_ids]
        raise TrainingError(f"step {step}: no sample has a token to learn; samples {ids[:8]}: check their texts")
    reported: dict[str, Tensor] = {}
    for number, batch in enumerate(micro_batches, 1):
        sync = contextlib.nullcontext() if number == len(micro_batches) else accelerator.no_sync(run.model)
        with sync:
            with accelerator.autocast():
                terms = run.losses(run.model, batch)
            parts = {name: term.total / counts[term.per] for name, term in terms.items()}
            total = torch.stack([terms[name].weight * part for name, part in parts.items()]).sum()
            # DDP averages gradients over processes; the counts are already global
            accelerator.backward(total * accelerator.num_processes)
        for name, part in (*parts.items(), ("", total)):
            reported[name] = reported.get(name, 0) + part.detach()
    norm = accelerator.clip_grad_norm_(run.model.parameters(), run.max_gradient_norm)
    losses = accelerator.reduce(torch.stack(list(reported.values())), reduction="sum")
    require_finite(step, dict(zip(reported, losses.tolist(), strict=True)), norm, micro_batches)
    rate = run.scheduler.get_last_lr()[0]
    run.optimizer.step()
    run.scheduler.step()
    run.optimizer.zero_grad()
    named = dict(zip(reported, losses.tolist(), strict=True))
    return {
        "loss": named.pop(""),
        **{f"loss/{name}": value for name, value in named.items()},
        "gradient_norm": float(norm) if norm is not None else 0.0,
        "learning_rate": rate,
        "target_tokens": counts["target_token"],
        "sequence_tokens": sequence_tokens,
        "unreadable": run.failures.num_failures,
    }


def global_counts(accelerator: Accelerator, micro_batches: list[Batch]) -> tuple[Counts, float]:
    """Returns target tokens and clips of the whole global batch, and its sequence length in tokens."""
    own = [
        sum(batch.num_targets for batch in micro_batches),
        sum(batch.num_clips for batch in micro_batches),
        sum(int(batch.attention_mask.sum()) for batch in micro_batches),
    ]
    counted = accelerator.reduce(
        torch.tensor(own, dtype=torch.float32, device=accelerator.device), reduction="sum"
    ).tolist()
    return {"target_token": counted[0], "clip": max(1.0, counted[1])}, counted[2]


def require_finite(step: int, losses: dict[str, float], norm: Any, micro_batches: list[Batch]) -> None:
    """Raises `TrainingError` when a loss (summed over processes) or the gradient norm is not finite.

    The sum over processes carries one process's NaN to all of them, so that all stop at the same step.
    """
    values = {**losses, "gradient norm": 0.0 if norm is None else float(norm)}
    bad = {name or "loss": value for name, value in values.items() if not abs(value) < float("inf")}
    if bad:
        ids = [sample for batch in micro_batches for sample in batch.sample_ids]
        raise TrainingError(
            f"step {step}: {bad} not finite before the update; nothing was changed. Samples of this process: "
            f"{ids[:8]}. Continue from the last checkpoint with --resume auto and a lower learning rate, or look at "
            "the samples"
        )


def peak_memory_gb() -> float:
    """Returns the largest memory used so far: of the GPU where there is one, else of this process, 1e9 bytes."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _next(run: TrainingRun, batches: Iterator[Batch]) -> Batch:
    batch = next(batches)
    run.failures.record(batch.failures, seen=len(batch.failures) + batch.num_clips)
    return batch
