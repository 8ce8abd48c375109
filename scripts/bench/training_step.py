"""The training loop's own cost: beside a bare PyTorch loop on the same modules, at resume, and in a checkpoint.

    OMP_NUM_THREADS=1 python -m scripts.bench.training_step [--rounds 20] [--steps 50]

CPU milliseconds per optimiser step (best of interleaved rounds) of our loop, without and with its log files, against
a plain loop with the same losses, clipping, fused AdamW and schedule; the losses must be equal bit for bit. Then the
seconds until the first batch's samples are known at step 100 and at step 1,000,000 of 1.1M samples, and the seconds
and bytes of a checkpoint against a raw write, flush and hash of as many bytes.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy
import torch
from accelerate import Accelerator
from rich.table import Table
from torch import nn
from torch.optim import AdamW
from transformers import get_cosine_schedule_with_warmup

from exo2ego.console import console
from exo2ego.data.batch import Batch
from exo2ego.data.failures import FailureBudget
from exo2ego.data.pairing import MicroBatches, SampleOrder
from exo2ego.storage import hash_file
from exo2ego.train.batch_plan import BatchPlan
from exo2ego.train.checkpoint import save_checkpoint
from exo2ego.train.journal import Journal
from exo2ego.train.loop import TrainingRun, train
from exo2ego.train.objective import Term, Terms
from exo2ego.train.updating import Updater

WIDTH, DEPTH, BATCH = 144, 24, 96  # about 6 ms a step on one core
LEARNING_RATE, LARGEST_NORM, WEIGHT_DECAY = 1e-3, 1.0, 0.02
NUM_CLIPS, MEAN_VIEWS = 261_300, 4.29  # Exo2Ego Table 1: 1.1M pairs
CHECKPOINT_PARAMETERS = 25_000_000  # 0.3 GB with both moments


def toy_model() -> nn.Module:
    """Returns 24 linear layers."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH)))


def toy_batch() -> Batch:
    """Returns random features in the place of pixels; every clip has one target token."""
    pixels = torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(1))
    ids = torch.zeros(BATCH, 2, dtype=torch.long)
    return Batch(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        labels=ids,
        pixels=pixels,
        patch_mask=torch.ones(BATCH, 1, dtype=torch.bool),
        clip_weight=torch.ones(BATCH),
    )


def toy_losses(model: nn.Module, batch: Batch) -> Terms:
    """Returns three terms, as stage 2 has."""
    output = model(batch.pixels)
    return {
        "text": Term(output.square().sum(), per="target_token"),
        "kl": Term((output - batch.pixels).square().sum(), per="clip"),
        "cycle": Term((output - batch.pixels).abs().sum(), per="clip"),
    }


def optimizer_and_schedule(
    model: nn.Module, steps: int
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LRScheduler]:
    """Returns what both loops update with."""
    optimizer = AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    return optimizer, get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)


def bare_loop(steps: int) -> tuple[float, list[float]]:
    """Runs the plain loop; returns CPU seconds and losses."""
    model, batch, losses = toy_model(), toy_batch(), []
    optimizer, schedule = optimizer_and_schedule(model, steps)
    began = time.process_time()
    for _ in range(steps):
        terms = toy_losses(model, batch)
        loss = torch.stack([term.total / BATCH for term in terms.values()]).sum()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), LARGEST_NORM)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return time.process_time() - began, losses


def our_loop(steps: int, log_dir: Path | None) -> tuple[float, list[float]]:
    """Runs `train`; returns CPU seconds and losses."""
    model, batch, losses = toy_model(), toy_batch(), []
    optimizer, schedule = optimizer_and_schedule(model, steps)
    accelerator = Accelerator(cpu=True, mixed_precision="no", rng_types=[])
    updater = Updater(accelerator, accelerator.prepare(model), optimizer, max_gradient_norm=LARGEST_NORM)
    enabled = log_dir is not None
    journal = Journal(log_dir or Path(), start_step=0, total_steps=steps, log_every=10, enabled=enabled)
    record = journal.record

    def record_and_note(step: int, metrics: dict[str, float]) -> None:
        losses.append(metrics["loss"])
        record(step, metrics)

    journal.record = record_and_note  # type: ignore[method-assign]
    run = TrainingRun(
        updater=updater,
        losses=toy_losses,
        scheduler=schedule,
        batches=itertools.repeat(batch),
        plan=BatchPlan(BATCH, BATCH, 1, 1, steps, steps // 10),
        precision="fp32",
        journal=journal,
        failures=FailureBudget(0.001),
        save=lambda step: None,
        save_every=10,
        seed=0,
    )
    console.quiet = True
    began = time.process_time()
    stopped = train(run)
    seconds = time.process_time() - began
    journal.close()
    console.quiet = False
    if stopped:
        raise KeyboardInterrupt
    return seconds, losses


def compare_loops(rounds: int, steps: int) -> Table:
    """Runs the loops in turns and returns their best times; raises `AssertionError` when a loss differs."""
    with tempfile.TemporaryDirectory() as folder:
        logs = (Path(folder) / str(number) for number in itertools.count())
        loops: dict[str, Callable[[], tuple[float, list[float]]]] = {
            "bare PyTorch loop": lambda: bare_loop(steps),
            "ours": lambda: our_loop(steps, None),
            "ours, JSONL and TensorBoard": lambda: our_loop(steps, next(logs)),
        }
        best = dict.fromkeys(loops, float("inf"))
        expected = bare_loop(steps)[1]
        for _ in range(rounds):
            for name, loop in loops.items():
                seconds, losses = loop()
                assert losses == expected, f"{name}: other losses than the bare loop"
                best[name] = min(best[name], seconds * 1000 / steps)
    table = Table("loop", "CPU ms/step", "over bare, ms", title=f"{steps} steps, losses equal bit for bit")
    for name, milliseconds in best.items():
        table.add_row(name, f"{milliseconds:.3f}", f"{milliseconds - best['bare PyTorch loop']:+.3f}")
    return table


def measure_resume(rounds: int) -> Table:
    """Returns how long the loader takes to know its first samples at two very different steps."""
    num_views = numpy.random.default_rng(0).choice([4, 5], NUM_CLIPS, p=[5 - MEAN_VIEWS, MEAN_VIEWS - 4])
    best = dict.fromkeys((100, 1_000_000), float("inf"))
    for _ in range(rounds):
        for step in best:
            began = time.process_time()
            order = SampleOrder(num_views, "all_pairs", seed=0)
            next(first_samples(order, step))
            best[step] = min(best[step], (time.process_time() - began) * 1000)
    table = Table("resume at step", "CPU ms to the first samples", title=f"{num_views.sum():,} samples, batch 256")
    for step, milliseconds in best.items():
        table.add_row(f"{step:,}", f"{milliseconds:.1f}")
    return table


def first_samples(order: SampleOrder, step: int) -> Iterator[object]:
    """Returns the micro-batches from a step on."""
    sizes = {"local_size": 8, "accumulation": 2, "process_index": 0, "num_processes": 16}
    return iter(MicroBatches(order, **sizes, start_step=step, end_step=step + 1))


def measure_checkpoint(rounds: int) -> Table:
    """Returns the cost of a checkpoint of trained weights and two moments, and of writing as much without form."""
    weights = {f"layer{number}": torch.randn(CHECKPOINT_PARAMETERS // 10) for number in range(10)}
    state = {"state": {n: {"exp_avg": w.clone(), "exp_avg_sq": w.clone()} for n, w in enumerate(weights.values())}}
    raw = torch.cat([*weights.values()] * 3).numpy().tobytes()
    record = {"stage": "bench", "step": 1, "parent": None}
    best = {"raw write, flush, hash": float("inf"), "save_checkpoint": float("inf")}
    written = 0
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            began = time.perf_counter()
            write_raw(Path(folder) / "raw", raw)
            best["raw write, flush, hash"] = min(best["raw write, flush, hash"], time.perf_counter() - began)
            began = time.perf_counter()
            saved = save_checkpoint(Path(folder), record=record, trained=weights, optimizer_state=state)
            best["save_checkpoint"] = min(best["save_checkpoint"], time.perf_counter() - began)
            written = sum(path.stat().st_size for path in saved.path.iterdir())
    share = written / (16 * CHECKPOINT_PARAMETERS)
    table = Table("checkpoint", "seconds", title=f"{written / 1e9:.2f} GB, {share:.3f} of 16 bytes per trained weight")
    for name, seconds in best.items():
        table.add_row(name, f"{seconds:.2f}")
    return table


def write_raw(path: Path, content: bytes) -> None:
    """Writes the bytes, waits for the disk, and hashes the file."""
    with path.open("wb") as stream:
        stream.write(content)
        os.fsync(stream.fileno())
    hash_file(path)


def main() -> None:
    """Parses the command line and prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.training_step", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="repetitions, in turns")
    parser.add_argument("--steps", type=int, default=50, help="optimiser steps of a repetition")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console.print(compare_loops(arguments.rounds, arguments.steps))
    console.print(measure_resume(5))
    console.print(measure_checkpoint(5))


if __name__ == "__main__":
    main()
