"""The cost of a stage's losses, counted on a model and a micro-batch that have shapes and no content."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from exo2ego.console import console
from exo2ego.data.batch import Batch
from exo2ego.model.configuration import Exo2EgoConfig
from exo2ego.model.cost import Trace, trace_cost
from exo2ego.model.modeling import Exo2EgoForConditionalGeneration
from exo2ego.model.skeleton import skeleton_of
from exo2ego.model.tokens import IGNORED
from exo2ego.train.hardware import find_gpu
from exo2ego.train.parameters import TableRow, apply_freeze_table, set_precision
from exo2ego.train.preparation import Prepared, needs_exo_beside, present_rows
from exo2ego.train.speed import SpeedMeter, StepCost
from exo2ego.train.stage import Stage

PARTS = {
    "model.vision_tower": "ego tower",
    "model.teacher_tower": "exo tower",
    "model.mapper_f": "mapping F",
    "model.mapper_g": "mapping G",
    "model.connector": "connector",
    "model.connector_exo": "exo connector",
    "model.fusion": "fusion",
    "model.language_model": "language model",
    "lm_head": "head",
}


def make_trainable(stage: Stage[Any], model: Exo2EgoForConditionalGeneration) -> list[TableRow]:
    """Sets what trains, in which precision, and what is recomputed, as `prepare` does with a real model."""
    optim = stage.config.optim
    rows = apply_freeze_table(model, present_rows(model, stage.freeze_table()), optim.learning_rate, optim.groups)
    set_precision(model, stage.config.precision)
    model.train()
    model.set_gradient_checkpointing(list(stage.config.gradient_checkpointing))
    return rows


def step_cost(stage: Stage[Any], model_config: Exo2EgoConfig, mean_views: float) -> StepCost:
    """Returns the model FLOPs per clip and per token of a stage that is about to train."""
    model = skeleton_of(copy.deepcopy(model_config), stage.parts.lora)
    make_trainable(stage, model)
    tokens = model.model.num_video_tokens(stage.view)
    text_tokens, views = (8, 72), {math.floor(mean_views), math.ceil(mean_views)}
    traces = {
        (text, number): trace_stage(stage, model, skeleton_batch(stage, model, 1, number, text, 4))
        for text in text_tokens
        for number in views
    }
    short, long = (
        at_mean({number: traces[text, number].flops("model_flops") for number in views}, mean_views)
        for text in text_tokens
    )
    per_token = (long - short) / (text_tokens[1] - text_tokens[0])
    return StepCost(per_clip=short - per_token * (tokens + text_tokens[0]), per_token=per_token)


def skeleton_batch(
    stage: Stage[Any],
    model: Exo2EgoForConditionalGeneration,
    num_clips: int,
    num_views: int,
    text_tokens: int,
    target_tokens: int,
) -> Batch:
    """Returns a micro-batch of equal samples: pixels without content; ids, labels and masks as the collator makes."""
    inner, view = model.model, stage.view
    num_video = inner.num_video_tokens(view)
    ids = torch.zeros(num_clips, num_video + text_tokens, dtype=torch.long)
    ids[:, 1 : 1 + num_video] = model.config.video_token_id
    labels = torch.full_like(ids, IGNORED)
    labels[:, -target_tokens:] = 0
    tower = inner.teacher_tower if view == "exo" else inner.vision_tower
    assert tower is not None
    batch = Batch(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        labels=labels,
        pixels=_pixels(model, tower, num_clips),
        patch_mask=torch.ones(num_clips, tower.grid_size**2, dtype=torch.bool),
        clip_weight=torch.ones(num_clips),
    )
    if needs_exo_beside(stage):
        teacher = inner.teacher_tower
        assert teacher is not None
        batch.exo_pixels = _pixels(model, teacher, num_clips, num_views)
        batch.exo_patch_mask = torch.ones(num_clips, num_views, teacher.grid_size**2, dtype=torch.bool)
        batch.view_weight = torch.full((num_clips, num_views), 1 / num_views)
    return batch


def trace_stage(stage: Stage[Any], model: Exo2EgoForConditionalGeneration, batch: Batch) -> Trace:
    """Returns the cost of a stage's losses on a micro-batch, forward and backward."""
    pixels = [batch.pixels, *([batch.exo_pixels] if batch.exo_pixels is not None else [])]

    def run() -> list[Tensor]:
        return [term.total for term in stage.losses(model, batch).values()]

    return trace_cost(model, run, part_of=PARTS, inputs=pixels, precision=stage.config.precision)


def speed_meter(prepared: Prepared) -> SpeedMeter:
    """Returns the meter of a run; counts the operations of its model once, on the meta device."""
    stage, plan = prepared.stage, prepared.plan
    views = float(prepared.order.num_views.mean()) if needs_exo_beside(stage) and stage.pairing == "grouped" else 1.0
    try:
        cost = step_cost(stage, prepared.model.config, views)
    except (NotImplementedError, RuntimeError) as error:  # a part that computes with values, which meta tensors lack
        console.print(
            f"no model FLOPs and no MFU in the log: they cannot be counted for this model: {error}", markup=False
        )
        cost = None
    return SpeedMeter(cost, _peak_flops(stage.config.hardware.peak_tflops, plan.world_size))


def _peak_flops(given_tflops: float | None, world_size: int) -> float | None:
    """Returns the peak of all processes' GPUs: as configured, or by the name that the driver gives."""
    if given_tflops is None and torch.cuda.is_available():
        gpu = find_gpu(torch.cuda.get_device_name())
        given_tflops = None if gpu is None else gpu.peak_tflops
    return None if given_tflops is None else given_tflops * 1e12 * world_size


def _pixels(model: Exo2EgoForConditionalGeneration, tower: Any, *leading: int) -> Tensor:
    return torch.empty(*leading, model.config.num_frames, 3, tower.image_size, tower.image_size, device="meta")


def at_mean(values: Mapping[int, float], mean: float) -> float:
    """Returns the value at a mean between two whole numbers; the cost of views is linear."""
    low, high = min(values), max(values)
    return values[low] + (values[high] - values[low]) * (mean - low)
