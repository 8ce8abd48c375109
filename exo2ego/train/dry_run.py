"""`--dry-run`: everything is built, one step runs without an update, and the plan is shown."""

from __future__ import annotations

import time
from collections.abc import Sequence

from exo2ego.console import console
from exo2ego.model.modeling import Exo2EgoForConditionalGeneration
from exo2ego.train.loop import TrainingRun, global_counts, peak_memory_gb
from exo2ego.train.options import StageConfig
from exo2ego.train.parameters import TableRow, human_count

BYTES_TRAINED = 16  # fp32 weight, gradient and two AdamW moments
BYTES_FROZEN = {"bf16": 2, "fp32": 4}


def report_dry_run(
    run: TrainingRun, model: Exo2EgoForConditionalGeneration, rows: Sequence[TableRow], config: StageConfig
) -> None:
    """Runs forward and backward on one micro-batch, then prints losses, time, memory and disk; nothing is written."""
    run.model.train()
    batch = next(iter(run.batches)).to(run.accelerator.device)
    began = time.perf_counter()
    counts, tokens = global_counts(run.accelerator, [batch])
    with run.accelerator.autocast():
        terms = run.losses(run.model, batch)
    losses = {name: term.total / max(1.0, counts[term.per]) for name, term in terms.items()}
    run.accelerator.backward(sum(terms[name].weight * loss for name, loss in losses.items()))
    seconds = time.perf_counter() - began
    without = [name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]
    trained = sum(row.num_parameters for row in rows if row.learning_rate is not None)
    frozen = sum(row.num_parameters for row in rows if row.learning_rate is None)
    static_gb = (trained * BYTES_TRAINED + frozen * BYTES_FROZEN[config.precision]) / 1e9
    shown = "  ".join(f"{name} {float(loss.detach()):.4f}" for name, loss in losses.items())
    console.print(f"one micro-batch of {batch.input_ids.shape[0]} clips, {int(tokens)} tokens: {shown}  in {seconds:.1f} s")
    console.print(f"trained parameters without a gradient: {len(without)} {without[:3] if without else ''}")
    console.print(
        f"memory weights and optimiser {static_gb:.2f} GB per process without sharding; peak so far {peak_memory_gb():.2f} GB"
    )
    saved = min(config.checkpoint.keep_last, max(1, run.plan.total_steps // config.checkpoint.every_steps)) + 1
    console.print(f"disk   {saved * trained * 12 / 1e9:.2f} GB of checkpoints at most ({human_count(trained)} trained)")
    steps_s = seconds * run.plan.accumulation * run.plan.total_steps
    console.print(f"time   about {steps_s / 3600:.2f} h on this machine at this micro-batch's speed (first step: slow)")
