"""`--dry-run`: what the stage will cost, and one micro-batch without an update where everything for it is at hand."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from exo2ego.console import console
from exo2ego.model.modeling import Exo2EgoForConditionalGeneration
from exo2ego.model.skeleton import local_folder
from exo2ego.train.checkpoint import RECORD, checkpoint_bytes, checkpoint_folders, num_kept
from exo2ego.train.loop import TrainingRun, account_for_unreadable, averaged_losses, peak_memory_gb, step_totals
from exo2ego.train.options import StageConfig
from exo2ego.train.parameters import TableRow, human_count
from exo2ego.train.prediction import RESERVED_GIB, Prediction, predict
from exo2ego.train.preparation import find_parent
from exo2ego.train.stage import Stage

BYTES_TRAINED = 16  # fp32 weight, gradient and two AdamW moments
BYTES_FROZEN = {"bf16": 2, "fp32": 4}
WEIGHT_FILES = ("*.safetensors", "*.bin", "*.pt")


def show_prediction(stage: Stage[Any]) -> bool:
    """Prints the predicted cost; returns whether a micro-batch can be tried, and prints what is missing if not.

    Raises `CheckpointError` for a parent that does not fit, `ConfigError` for a model that cannot be built.
    """
    missing = missing_inputs(stage)
    if os.environ.get("RANK", "0") == "0":
        console.print(render_prediction(predict(stage), stage))
        if missing:
            console.print("not tried: a micro-batch forward and backward, because", *missing, sep="\n  ", markup=False)
    return not missing


def missing_inputs(stage: Stage[Any]) -> list[str]:
    """Returns what must be on this machine before a stage can run, and is not; nothing is downloaded for a look."""
    config: StageConfig = stage.config
    missing = []
    for key in ("vision_tower", "teacher_tower", "language_model"):
        part = getattr(config.model, key)
        if part is not None and part.from_pretrained is not None and not _has_weights(part.from_pretrained):
            missing.append(f"model.{key}: the weights of {part.from_pretrained} are not on this machine")
    if config.model.videollama2 is not None and not _has_weights(config.model.videollama2):
        missing.append(f"model.videollama2: {config.model.videollama2} is not on this machine")
    parent = config.parent
    if parent is not None and not (Path(parent) / RECORD).is_file() and not checkpoint_folders(Path(parent)):
        missing.append(f"parent: {parent} has no checkpoint")
    else:
        find_parent(stage)
    data = config.data
    if not Path(data.table).is_file():
        missing.append(f"data.table: {data.table} does not exist")
    if data.clip_store is None and not Path(data.root).is_dir():
        missing.append(f"data.root: {data.root} is not a folder")
    if data.clip_store is not None and not Path(data.clip_store).is_dir():
        missing.append(f"data.clip_store: {data.clip_store} is not a folder")
    if config.deepspeed is not None and "RANK" not in os.environ:
        missing.append("deepspeed: several processes are needed: torchrun --nproc_per_node GPUS -m stages.STAGE")
    return missing


def _has_weights(name: str) -> bool:
    folder = local_folder(name)
    return folder is not None and any(next(folder.glob(pattern), None) for pattern in WEIGHT_FILES)


def render_prediction(found: Prediction, stage: Stage[Any]) -> Group:
    """Returns the prediction for the console: parts, memory by strategy, time and disk."""
    hardware, plan = stage.config.hardware, found.plan
    gpu = hardware.resolved
    tokens = f"{found.video_tokens:,} video + {found.tokens_per_sample - found.video_tokens:,} text"
    model, again = found.flops("model_flops"), found.flops("recomputed_flops")
    lines = [
        f"tokens {tokens} per sample, {found.tokens_per_sample * plan.global_size:,} per step",
        f"flops  {model / 1e12:.1f} TFLOP per sample, and {again / 1e12:.1f} recomputed; "
        f"{model * plan.global_size / 1e15:.1f} PFLOP per step",
        f"batch  {plan.world_size} GPUs x {plan.local_size} clips x {plan.accumulation} = {plan.global_size}",
        _time_line(found, stage),
        f"disk   {found.checkpoint_bytes / 1e9:.1f} GB per checkpoint, {found.checkpoints_bytes / 1e9:.1f} GB at most",
        _verdict(found, hardware.gpu, gpu.memory_gib),
        *(f"note   {note}" for note in found.notes),
    ]
    title = Text.assemble(("predicted", "bold"), f" · {stage.name} · {stage.title} · from the configuration alone")
    return Group(title, _parts_table(found), _memory_table(found, gpu.memory_gib), *map(Text, lines))


def _time_line(found: Prediction, stage: Stage[Any]) -> str:
    hardware = stage.config.hardware
    peak = hardware.resolved.peak_tflops
    hours = found.hours(peak, hardware.utilisation)
    if hours is None:
        return "time   unknown: the number of samples is"
    again = found.hours(peak, hardware.utilisation, recomputing=True)
    return (
        f"time   {found.total_steps:,} steps: {hours:.1f} h on {found.plan.world_size} x {hardware.gpu} "
        f"({peak:g} TFLOP/s) at {100 * hardware.utilisation:g} % MFU, {again:.1f} h with recomputation"
    )


def _verdict(found: Prediction, gpu: str, memory_gib: float) -> str:
    needed = found.memory_gib()
    if found.fits(memory_gib):
        return f"memory {found.strategy} needs {needed:.1f} GiB of {memory_gib:g} on a {gpu}: fits"
    others = [name for name in found.static if found.fits(memory_gib, name)]
    advice = f"fits with {', '.join(others)}" if others else "lower batch.local_size or add to gradient_checkpointing"
    return f"memory {found.strategy} needs {needed:.1f} GiB of {memory_gib:g} on a {gpu}: DOES NOT FIT; {advice}"


def _parts_table(found: Prediction) -> Table:
    table = Table(
        *("part", "params", "trained", "fwd", "model", "again", "kept GiB"),
        title=f"TFLOP per sample (forward, with backward, recomputed); activations of {found.plan.local_size} clips",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    for name, part in found.parts.items():
        flops = (part.forward_flops, part.model_flops, part.recomputed_flops)
        table.add_row(
            name,
            human_count(part.parameters),
            human_count(part.trained) if part.trained else "",
            *(f"{value / 1e12:.2f}" for value in flops),
            f"{part.kept_bytes / 2**30:.2f}",
        )
    return table


def _memory_table(found: Prediction, memory_gib: float) -> Table:
    table = Table(
        *("GiB per GPU", "weights", "grads", "AdamW", "buffers", "activations", "peak", ""),
        title=f"memory at its peak; fits if {RESERVED_GIB:g} GiB are left for CUDA's own",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    for name, static in found.static.items():
        parts = (static.weights, static.gradients, static.masters + static.moments, static.buffers)
        table.add_row(
            f"{name} *" if name == found.strategy else name,
            *(f"{size / 2**30:.1f}" for size in (*parts, found.activation_bytes)),
            f"{found.memory_gib(name):.1f}",
            "fits" if found.fits(memory_gib, name) else "too much",
        )
    return table


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
    num_saved = num_kept(run.plan.total_steps, **config.checkpoint.model_dump()) + 1
    # counted from the table: ZeRO-3 has split the parameters
    size = checkpoint_bytes([torch.empty(trained, device="meta")])
    hours = seconds * run.plan.accumulation * run.plan.total_steps / 3600
    lines = [
        f"tried  one micro-batch: {totals.clips:.0f} clips ({totals.unreadable:.0f} unreadable), "
        f"{totals.sequence_tokens:,.0f} tokens, {totals.target_tokens:,.0f} of them to learn",
        f"loss   {shown}  gradient norm {norm:.2f}",
        *([_gradients(model)] if config.deepspeed is None else []),  # ZeRO keeps them elsewhere
        f"memory weights and optimiser {static_gb:.2f} GB per process without sharding; peak {peak_memory_gb():.2f} GB",
        f"disk   {num_saved * size / 1e9:.2f} GB of checkpoints while one is saved ({human_count(trained)} trained)",
        f"time   {seconds:.1f} s, {waited_s:.1f} s of them reading; at this speed {hours:.2f} h (a first step is slow)",
    ]
    console.print("\n".join(lines), markup=False)


def _gradients(model: Exo2EgoForConditionalGeneration) -> str:
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    without = [name for name, parameter in trained.items() if parameter.grad is None]
    if not without:
        return f"grads  all {len(trained)} trained tensors have one"
    return f"grads  {len(without)} of {len(trained)} trained tensors have NONE: {', '.join(without[:3])}"
