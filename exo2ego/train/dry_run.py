"""`--dry-run`: everything is built, one step runs without an update, and the plan is shown."""

from __future__ import annotations

import time
from collections.abc import Sequence

from exo2ego.console import console
from exo2ego.model.modeling import Exo2EgoForConditionalGeneration
from exo2ego.train.loop import TrainingRun, account_for_unreadable, averaged_losses, peak_memory_gb, step_totals
from exo2ego.train.options import StageConfig
from exo2ego.train.parameters import TableRow, human_count

BYTES_TRAINED = 16  # fp32 weight, gradient and two AdamW moments
BYTES_SAVED = 12  # weight and moments
BYTES_FROZEN = {"bf16": 2, "fp32": 4}


def report_dry_run(
    run: TrainingRun, model: Exo2EgoForConditionalGeneration, rows: Sequence[TableRow], config: StageConfig
) -> None:
    """Runs forward and backward on one micro-batch, then prints losses, time, memory and disk; nothing is written."""
    began = time.perf_counter()
    batch = next(iter(run.batches))
    waited_s = time.perf_counter() - began
    totals = step_totals(run, [batch])
    account_for_unreadable(run, 1, [batch], totals)
    with run.updater.gathering(last=True):
        losses, total = averaged_losses(run, batch.to(run.updater.accelerator.device), totals)
        run.updater.backward(total)
    norm = float(run.updater.clip())
    seconds = time.perf_counter() - began
    trained = sum(row.num_parameters for row in rows if row.learning_rate is not None)
    frozen = sum(row.num_parameters for row in rows if row.learning_rate is None)
    static_gb = (trained * BYTES_TRAINED + frozen * BYTES_FROZEN[config.precision]) / 1e9
    shown = "  ".join(f"{name} {float(loss.detach()):.4f}" for name, loss in losses.items())
    num_saved = min(config.checkpoint.keep_last + 1, -(-run.plan.total_steps // config.checkpoint.every_steps))
    hours = seconds * run.plan.accumulation * run.plan.total_steps / 3600
    lines = [
        f"tried  one micro-batch: {totals.clips:.0f} clips ({totals.unreadable:.0f} unreadable), "
        f"{totals.sequence_tokens:,.0f} tokens, {totals.target_tokens:,.0f} of them to learn",
        f"loss   {shown}  gradient norm {norm:.2f}",
        *([_gradients(model)] if config.deepspeed is None else []),  # ZeRO keeps them elsewhere
        f"memory weights and optimiser {static_gb:.2f} GB per process without sharding; peak {peak_memory_gb():.2f} GB",
        f"disk   {num_saved * trained * BYTES_SAVED / 1e9:.2f} GB of checkpoints while one is saved "
        f"({human_count(trained)} trained)",
        f"time   {seconds:.1f} s, {waited_s:.1f} s of them reading; at this speed {hours:.2f} h (a first step is slow)",
    ]
    console.print("\n".join(lines), markup=False)


def _gradients(model: Exo2EgoForConditionalGeneration) -> str:
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    without = [name for name, parameter in trained.items() if parameter.grad is None]
    if not without:
        return f"grads  all {len(trained)} trained tensors have one"
    return f"grads  {len(without)} of {len(trained)} trained tensors have NONE: {', '.join(without[:3])}"
