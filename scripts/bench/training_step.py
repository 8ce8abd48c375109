"""What the training loop costs beside the computation: ours, a bare PyTorch loop and transformers' Trainer.

    OMP_NUM_THREADS=1 python -m scripts.bench.training_step [--rounds 5] [--steps 200]

The same 24 linear layers, three losses, clipping, fused AdamW and schedule in every loop. The bare loop takes a step
between any two of the measured one, in the same thread. Prints CPU milliseconds per optimiser step: the mean of the
best race, and the difference of the median steps with a bootstrap 95 % interval; the losses of all steps must be equal
bit for bit. Then in which calls our loop spends its time.
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import pstats
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from accelerate import Accelerator
from rich.table import Table
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.data import Dataset
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    get_cosine_schedule_with_warmup,
)

from exo2ego.console import console
from exo2ego.data.batch import Batch
from exo2ego.data.failures import FailureBudget
from exo2ego.train.batch_plan import BatchPlan
from exo2ego.train.journal import Journal
from exo2ego.train.loop import TrainingRun, train
from exo2ego.train.objective import Term, Terms
from exo2ego.train.updating import Updater
from scripts.bench.side_by_side import StepsBeside, difference_interval, with_interval

WIDTH, DEPTH, BATCH = 144, 24, 96  # about 6 ms a step on one core
LEARNING_RATE, LARGEST_NORM, WEIGHT_DECAY = 1e-3, 1.0, 0.02
LOG_EVERY = 10
OURS, LOGGED, TRAINER = "ours", "ours, JSONL and TensorBoard", "transformers Trainer"
GOAL_MS = 0.25
GOAL_OF_TRAINER = 0.25


def toy_model() -> nn.Module:
    """Returns 24 linear layers, always the same."""
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH)))
    generator = torch.Generator().manual_seed(0)  # its own: the loops' threads share torch's
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -(WIDTH**-0.5), WIDTH**-0.5, generator=generator)
    return model


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


def mean_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Returns what the bare loop and the Trainer minimise: our loop's mean over the only micro-batch."""
    return torch.stack([term.total / BATCH for term in toy_losses(model, batch).values()]).sum()


def optimizer_and_schedule(
    model: nn.Module, steps: int
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LRScheduler]:
    """Returns what all loops update with."""
    optimizer = AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    return optimizer, get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)


def bare_loop(steps: int, losses: list[float]) -> Iterator[None]:
    """Takes a step of the plain loop at every `next`, and notes its loss."""
    model, batch = toy_model(), toy_batch()
    optimizer, schedule = optimizer_and_schedule(model, steps)
    while True:
        loss = mean_loss(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), LARGEST_NORM)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        yield


def our_loop(beside: StepsBeside, steps: int, log_dir: Path | None) -> list[float]:
    """Runs `train`, with or without its log files; returns the losses."""
    losses: list[float] = []
    run = our_run(beside.repeat(toy_batch(), steps), steps, log_dir, losses)
    console.quiet = True
    try:
        if train(run):
            raise KeyboardInterrupt
    finally:
        beside.end()
        console.quiet = False
        run.journal.close()
    return losses


def our_run(batches: Iterable[Batch], steps: int, log_dir: Path | None, losses: list[float]) -> TrainingRun:
    """Returns what `train` runs on the toy; it saves nothing, and notes every loss in `losses`."""
    model = toy_model()
    optimizer, schedule = optimizer_and_schedule(model, steps)
    accelerator = Accelerator(cpu=True, mixed_precision="no", rng_types=[])
    enabled = log_dir is not None
    journal = Journal(log_dir or Path(), start_step=0, total_steps=steps, log_every=LOG_EVERY, enabled=enabled)
    record = journal.record

    def record_and_note(step: int, metrics: dict[str, float]) -> None:
        losses.append(metrics["loss"])
        record(step, metrics)

    journal.record = record_and_note  # type: ignore[method-assign]
    return TrainingRun(
        updater=Updater(accelerator, accelerator.prepare(model), optimizer, max_gradient_norm=LARGEST_NORM),
        losses=toy_losses,
        scheduler=schedule,
        batches=batches,
        plan=BatchPlan(BATCH, BATCH, 1, 1, steps, steps // 10),
        precision="fp32",
        journal=journal,
        failures=FailureBudget(0.001),
        save=lambda step: None,
        save_every=LOG_EVERY,
        seed=0,
    )


class ToyTrainer(Trainer):
    """Transformers' Trainer on the toy; notes the loss of every step."""

    losses: list[Tensor]

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Returns the mean loss."""
        return mean_loss(model, inputs["batch"])

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Takes the Trainer's own step."""
        loss = super().training_step(*args, **kwargs)
        self.losses.append(loss.detach())
        return loss


class StepBesideTrainer(TrainerCallback):
    """Lets the bare loop take a step before each of the Trainer's."""

    def __init__(self, beside: StepsBeside) -> None:
        self.beside = beside

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Ends the step before."""
        self.beside.step()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Ends the last one."""
        self.beside.end()


@dataclass
class RepeatedBatch(Dataset[int]):
    """Numbers in the place of samples; the collator turns any of them into the one batch."""

    length: int
    batch: Batch = field(default_factory=toy_batch)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        return index

    def collate(self, items: list[int]) -> dict[str, Any]:
        """Returns the batch."""
        return {"batch": self.batch}


def trainer_loop(beside: StepsBeside, steps: int, folder: Path) -> list[float]:
    """Runs transformers' Trainer, logging as often as ours and saving nothing; returns the losses."""
    model, samples = toy_model(), RepeatedBatch(steps)
    options = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        max_steps=steps,
        max_grad_norm=LARGEST_NORM,
        logging_steps=LOG_EVERY,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    trainer = ToyTrainer(
        model=model,
        args=options,
        train_dataset=samples,
        data_collator=samples.collate,
        optimizers=optimizer_and_schedule(model, steps),
        callbacks=[StepBesideTrainer(beside)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.losses = []
    trainer.train()
    return torch.stack(trainer.losses).tolist()


def race(loop: Callable[[StepsBeside], list[float]], steps: int) -> StepsBeside:
    """Runs a loop and the bare one step by step in turns.

    Raises `AssertionError` when their losses are not equal bit for bit.
    """
    expected: list[float] = []
    beside = StepsBeside(bare_loop(steps, expected))
    losses = loop(beside)
    assert losses == expected, "other losses than the bare loop"
    assert len(losses) == len(beside.seconds) == len(beside.other_seconds) == steps
    return beside


def compare_loops(rounds: int, steps: int) -> Table:
    """Returns the table of `rounds` races of each loop against the bare one."""
    columns = ("bare, ms", "the loop, ms", "ratio of best races", "over bare, best races", "over bare, median (95 %)")
    table = Table("loop", *columns, title=f"CPU ms per step, {rounds} races of {steps} steps, losses equal bit for bit")
    over = {}
    with tempfile.TemporaryDirectory() as folder:
        logs = (Path(folder) / str(number) for number in itertools.count())
        loops: dict[str, Callable[[StepsBeside], list[float]]] = {
            OURS: lambda beside: our_loop(beside, steps, None),
            LOGGED: lambda beside: our_loop(beside, steps, next(logs)),
            TRAINER: lambda beside: trainer_loop(beside, steps, Path(folder) / "trainer"),
        }
        for loop in loops.values():
            race(loop, steps)  # warms up
        races = [{name: race(loop, steps) for name, loop in loops.items()} for _ in range(rounds)]
    for name in loops:
        own = [[second * 1000 for second in one[name].seconds] for one in races]
        bare = [[second * 1000 for second in one[name].other_seconds] for one in races]
        best, best_bare = min(map(fmean, own)), min(map(fmean, bare))
        interval = difference_interval([*itertools.chain(*own)], [*itertools.chain(*bare)])
        over[name] = interval[0]
        numbers = (f"{best_bare:.3f}", f"{best:.3f}", f"{best / best_bare:.3f}", f"{best - best_bare:+.3f}")
        table.add_row(name, *numbers, with_interval(interval, 3))
    share = over[OURS] / over[TRAINER]
    met = over[OURS] <= GOAL_MS and share <= GOAL_OF_TRAINER
    table.caption = (
        f"median: ours {over[OURS]:+.3f} ms, goal {GOAL_MS}; {share:.2f} of the Trainer's, goal {GOAL_OF_TRAINER}: "
        + ("both met" if met else "NOT both met")
    )
    return table


def profile_ours(steps: int, rows: int = 14) -> Table:
    """Returns the calls of this package and the accelerator's in which a step of our loop spends its own time."""
    run = our_run(itertools.repeat(toy_batch()), steps, None, [])
    profiler = cProfile.Profile()
    profiler.runcall(train, run)
    stats: dict[Any, Any] = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    table = Table("function", "calls per step", "own µs per step, under the profiler", title="where our step spends it")
    costly = sorted(stats.items(), key=lambda item: -item[1][2])
    for (path, line, name), (_, calls, own, _, _) in costly[:rows]:
        place = f"{Path(path).name}:{line} {name}" if line else name
        table.add_row(place, f"{calls / steps:.1f}", f"{own / steps * 1e6:.0f}")
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line and prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.training_step", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="races")
    parser.add_argument("--steps", type=int, default=200, help="optimiser steps of a race")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    console.print(compare_loops(options.rounds, options.steps))
    console.print(profile_ours(options.steps))


if __name__ == "__main__":
    main()
