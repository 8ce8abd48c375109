"""The training loop, the only one: gather a step's micro-batches, divide by global counts, check, update, log, save."""

from __future__ import annotations

import hashlib
import math
import resource
import signal
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from exo2ego.data.batch import Batch
from exo2ego.data.failures import FailureBudget
from exo2ego.errors import TrainingError
from exo2ego.train.batch_plan import BatchPlan
from exo2ego.train.journal import Journal
from exo2ego.train.objective import Terms, Unit
from exo2ego.train.stopping import StopRequest
from exo2ego.train.updating import Updater, autocast

Losses = Callable[[nn.Module, Batch], Terms]


@dataclass(frozen=True)
class TrainingRun:
    """Everything the loop touches; the model's parts are in train or eval mode as whoever built it decided."""

    updater: Updater
    losses: Losses
    scheduler: LRScheduler
    batches: Iterable[Batch]
    plan: BatchPlan
    precision: str
    journal: Journal
    failures: FailureBudget
    save: Callable[[int], None]
    save_every: int
    seed: int
    start_step: int = 0


@dataclass(frozen=True)
class StepTotals:
    """What one optimiser step holds, summed over its micro-batches and over all processes."""

    target_tokens: float
    clips: float
    sequence_tokens: float
    unreadable: float

    def count(self, unit: Unit) -> float:
        """Returns what a term per `unit` is divided by."""
        return self.target_tokens if unit == "target_token" else self.clips


def train(run: TrainingRun, request: StopRequest | None = None) -> int:
    """Takes every optimiser step from `start_step` to the plan's end; returns the signal that ended it early, or 0.

    `request` is what already hears the signals, where something does. Raises, on all processes at once,
    `TrainingError` before a bad update and `DataError` when too many videos are unreadable.
    """
    with nullcontext(request) if request else StopRequest() as request, closing(_each(run.batches)) as batches:
        for step in range(run.start_step + 1, run.plan.total_steps + 1):
            began = time.perf_counter()
            micro_batches = [next(batches) for _ in range(run.plan.accumulation)]
            waited_s = time.perf_counter() - began
            metrics, stops = take_step(run, step, micro_batches, request)
            seconds = time.perf_counter() - began
            metrics |= {
                "samples_per_s": run.plan.global_size / seconds,
                "tokens_per_s": metrics["sequence_tokens"] / seconds,
                "data_wait_share": waited_s / seconds,
                "peak_memory_gb": peak_memory_gb(),
                "seconds": seconds,
            }
            run.journal.record(step, metrics)
            if stops or step % run.save_every == 0 or step == run.plan.total_steps:
                run.save(step)
            if stops:
                return request.number or signal.SIGTERM  # another process may be the one that was told
    return 0


def take_step(
    run: TrainingRun, step: int, micro_batches: list[Batch], request: StopRequest
) -> tuple[dict[str, float], bool]:
    """Takes one optimiser step; returns its metrics, and whether any process was asked to stop after it."""
    accelerator = run.updater.accelerator
    totals = step_totals(run, micro_batches)
    account_for_unreadable(run, step, micro_batches, totals)
    # dropout is the only chance in a step: drawn from its number, it needs no state to be resumed
    _seed_dropout(run.seed, step, accelerator.process_index)
    own: list[Tensor] = []
    sums: dict[str, Tensor] = {}
    for number, batch in enumerate(micro_batches, 1):
        with run.updater.gathering(last=number == len(micro_batches)):
            parts, total = averaged_losses(run, batch.to(accelerator.device), totals)
            run.updater.backward(total)
        own.append(total.detach())
        for name, part in parts.items():
            sums[name] = sums[name] + part.detach() if name in sums else part.detach()
    norm = run.updater.clip()
    told = torch.tensor(float(request.number > 0), device=accelerator.device)
    # one exchange and one wait for the device; the sum carries one process's NaN to all, so that all stop together
    num_told, *losses = run.updater.summed(torch.stack([told, torch.stack(own).sum(), *sums.values()]))
    metrics = dict(zip(["loss", *(f"loss/{name}" for name in sums)], losses, strict=True))
    metrics["gradient_norm"] = float(norm)
    _require_finite(run, step, metrics, micro_batches, own)
    metrics |= {
        "learning_rate": max(map(float, run.scheduler.get_last_lr())),
        "target_tokens": totals.target_tokens,
        "sequence_tokens": totals.sequence_tokens,
        "unreadable": run.failures.num_failures,
    }
    run.updater.apply()
    run.scheduler.step()
    return metrics, num_told > 0


def step_totals(run: TrainingRun, micro_batches: list[Batch]) -> StepTotals:
    """Counts over the whole global batch what its losses are divided by: accumulation and processes drop out."""
    own = [
        sum(batch.num_targets for batch in micro_batches),
        sum(batch.num_clips for batch in micro_batches),
        sum(int(batch.attention_mask.sum()) for batch in micro_batches),
        sum(len(batch.failures) for batch in micro_batches),
    ]
    if run.updater.num_processes == 1:  # nothing to exchange, and no wait for the device
        return StepTotals(*map(float, own))
    counted = torch.tensor(own, dtype=torch.float32, device=run.updater.accelerator.device)
    return StepTotals(*run.updater.summed(counted))


def averaged_losses(run: TrainingRun, batch: Batch, totals: StepTotals) -> tuple[dict[str, Tensor], Tensor]:
    """Returns a micro-batch's share of every term's global mean, and of the weighted total."""
    with autocast(run.updater.accelerator.device, run.precision):
        terms = run.losses(run.updater.model, batch)
    parts = {name: term.total / totals.count(term.per) for name, term in terms.items()}
    weights = {name: term.weight for name, term in terms.items()}
    # a factor of 1 would be two kernels for nothing
    total = torch.stack([part if weights[name] == 1 else weights[name] * part for name, part in parts.items()]).sum()
    return parts, total


def account_for_unreadable(run: TrainingRun, step: int, micro_batches: list[Batch], totals: StepTotals) -> None:
    """Logs what could not be read, everywhere at the same step; raises when too little is left to learn from."""
    unreadable = [failure for batch in micro_batches for failure in batch.failures]
    run.failures.record(run.updater.gathered(unreadable) if totals.unreadable else [], seen=run.plan.global_size)
    if not totals.clips:
        raise TrainingError(f"step {step}: none of its {run.plan.global_size} videos can be read, see failures.jsonl")
    if not totals.target_tokens:
        ids = run.updater.gathered([sample for batch in micro_batches for sample in batch.sample_ids])
        raise TrainingError(f"step {step}: no sample has a token to learn; samples {ids[:8]}: check their texts")


def _require_finite(
    run: TrainingRun, step: int, values: dict[str, float], micro_batches: list[Batch], own: list[Tensor]
) -> None:
    bad = {name: value for name, value in values.items() if not math.isfinite(value)}
    if not bad:
        return
    at_fault = [batch for batch, total in zip(micro_batches, own, strict=True) if not bool(total.isfinite())]
    ids = run.updater.gathered([sample for batch in at_fault for sample in batch.sample_ids])
    whose = f"Samples of the micro-batches at fault: {ids}"
    if not ids:
        ids = run.updater.gathered([sample for batch in micro_batches for sample in batch.sample_ids])
        whose = f"The losses are finite, their gradient is not; {len(ids)} samples, the first: {ids[:32]}"
    raise TrainingError(
        f"step {step}: {bad}: not finite before the update; no weight was changed. {whose}. Look at them; --resume "
        "auto repeats the steps since the last checkpoint, and a lower optim.learning_rate needs a new run"
    )


def _seed_dropout(seed: int, step: int, process: int) -> None:
    of_step = int.from_bytes(hashlib.blake2b(f"{seed} {step} {process}".encode(), digest_size=7).digest(), "little")
    torch.default_generator.manual_seed(of_step)  # torch.manual_seed costs a millisecond where there is no GPU
    if torch.cuda.is_initialized():  # is_available asks the driver each time once DeepSpeed is imported
        torch.cuda.manual_seed(of_step)


def peak_memory_gb() -> float:
    """Returns the largest memory used so far: of the GPU where there is one, else of this process, 1e9 bytes."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _each(batches: Iterable[Batch]) -> Generator[Batch, None, None]:
    yield from batches
