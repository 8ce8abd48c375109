"""What a stage will cost: operations, tokens, memory, hours and disk, from its configuration alone."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exo2ego.model.cost import ADAPTERS, Trace
from exo2ego.model.modeling import Exo2EgoForConditionalGeneration
from exo2ego.model.skeleton import build_skeleton
from exo2ego.train.batch_plan import BatchPlan, plan_batches
from exo2ego.train.checkpoint import checkpoint_bytes, num_kept
from exo2ego.train.memory import STRATEGIES, StaticMemory, static_memory
from exo2ego.train.options import CheckpointOptions, StageConfig
from exo2ego.train.sample_counts import SampleCounts, count_samples
from exo2ego.train.stage import Stage
from exo2ego.train.stage_cost import PARTS, at_mean, make_trainable, skeleton_batch, trace_stage
from exo2ego.train.zero_file import read_zero_file

RESERVED_GIB = 2.0
"""Left for CUDA's context, message buffers and gaps between allocations."""


@dataclass(frozen=True)
class PartPrediction:
    """One part of the model; operations per sample, bytes for one micro-batch."""

    parameters: int
    trained: int
    forward_flops: float
    model_flops: float
    """Forward and backward without recomputation."""
    recomputed_flops: float
    kept_bytes: int
    """Activations between forward and backward pass."""


@dataclass(frozen=True)
class Prediction:
    """The cost of one stage on `plan.world_size` GPUs."""

    stage: str
    parts: dict[str, PartPrediction]
    video_tokens: int
    tokens_per_sample: int
    samples: SampleCounts
    plan: BatchPlan
    total_steps: int | None
    """None where the number of samples is unknown."""
    strategy: str
    """How the configuration spreads state over GPUs: DDP, ZeRO-1, ZeRO-2 or ZeRO-3."""
    static: dict[str, StaticMemory]
    """Bytes per GPU that stay, by strategy."""
    activation_bytes: int
    """The most that inputs, activations and their gradients take at a time, per GPU."""
    checkpoint_bytes: int
    """One checkpoint: trained weights and two moments."""
    checkpoints_bytes: int
    """All checkpoints of the run while one is written."""
    notes: tuple[str, ...]
    """What was assumed."""

    def flops(self, kind: str) -> float:
        """Returns `forward_flops`, `model_flops` or `recomputed_flops` per sample of all parts."""
        return float(sum(getattr(part, kind) for part in self.parts.values()))

    def memory_gib(self, strategy: str | None = None) -> float:
        """Returns the predicted peak of one GPU, 2**30 bytes."""
        return (self.static[strategy or self.strategy].total + self.activation_bytes) / 2**30

    def fits(self, memory_gib: float, strategy: str | None = None) -> bool:
        """Returns whether that leaves `RESERVED_GIB` of a GPU's memory."""
        return self.memory_gib(strategy) + RESERVED_GIB <= memory_gib

    def hours(self, peak_tflops: float, utilisation: float, *, recomputing: bool = False) -> float | None:
        """Returns the hours on all GPUs at a share of their peak; `recomputing` counts recomputation as work too."""
        if self.total_steps is None:
            return None
        per_sample = self.flops("model_flops") + (self.flops("recomputed_flops") if recomputing else 0)
        speed = self.plan.world_size * peak_tflops * 1e12 * utilisation
        return self.total_steps * self.plan.global_size * per_sample / speed / 3600


def predict(stage: Stage[Any]) -> Prediction:
    """Returns the cost of a stage for its `hardware` section; builds nothing but shapes.

    Raises `ConfigError` for a model that cannot be built.
    """
    config: StageConfig = stage.config
    model, from_table = build_skeleton(config.model, stage.parts)
    rows = make_trainable(stage, model)
    samples = count_samples(stage)
    plan, total_steps, plan_notes = _plan(config, samples)
    traces = {views: _trace(stage, model, plan.local_size, views) for views in samples.traced_views}
    tokens = model.model.num_video_tokens(stage.view)
    trained = sum(row.num_parameters for row in rows if row.learning_rate is not None)
    frozen_bytes, gathered = _frozen_bytes(model), _largest_block_bytes(model)
    size = checkpoint_bytes(parameter for parameter in model.parameters() if parameter.requires_grad)
    return Prediction(
        stage=stage.name,
        parts=_parts(model, traces, samples.mean_views, plan.local_size),
        video_tokens=tokens,
        tokens_per_sample=tokens + config.assumed.text_tokens,
        samples=samples,
        plan=plan,
        total_steps=total_steps,
        strategy=configured_strategy(config),
        static={
            name: static_memory(name, trained, frozen_bytes, plan.world_size, gathered, config.deepspeed)
            for name in STRATEGIES
        },
        activation_bytes=max(trace.peak_bytes for trace in traces.values()),
        checkpoint_bytes=size,
        checkpoints_bytes=_num_checkpoints(config.checkpoint, total_steps) * size,
        notes=(
            *(f"{name}: published sizes, its configuration is not on this machine" for name in from_table),
            samples.note,
            *plan_notes,
            f"{config.assumed.text_tokens} text tokens per sample, {config.assumed.target_tokens} of them with loss, "
            "all samples equally long (assumed)",
        ),
    )


def configured_strategy(config: StageConfig) -> str:
    """Returns DDP, or the ZeRO stage of the DeepSpeed file."""
    if config.deepspeed is None:
        return "DDP"
    return f"ZeRO-{read_zero_file(Path(config.deepspeed))['zero_optimization']['stage']}"


def _num_checkpoints(keep: CheckpointOptions, total_steps: int | None) -> int:
    """Returns those kept and the one being written; without a known end, those of `keep_every` are not counted."""
    if total_steps is None:
        return keep.keep_last + 1
    return num_kept(total_steps, **keep.model_dump()) + 1


def _trace(stage: Stage[Any], model: Exo2EgoForConditionalGeneration, num_clips: int, num_views: int) -> Trace:
    assumed = stage.config.assumed
    batch = skeleton_batch(stage, model, num_clips, num_views, assumed.text_tokens, assumed.target_tokens)
    return trace_stage(stage, model, batch)


def _plan(config: StageConfig, samples: SampleCounts) -> tuple[BatchPlan, int | None, list[str]]:
    """Returns the batches on the GPUs of the `hardware` section, or on as many of them as make the global batch."""
    wanted, size = config.hardware.num_gpus, config.batch.global_size
    world_size = max(number for number in range(1, wanted + 1) if size % number == 0)
    plan = plan_batches(
        global_size=size,
        local_size=config.batch.local_size,
        world_size=world_size,
        num_samples=samples.per_epoch or size,
        epochs=config.epochs,
        warmup_fraction=config.optim.warmup_fraction,
        max_steps=config.max_steps,
    )
    known = samples.per_epoch is not None or config.max_steps is not None
    notes = []
    if world_size != wanted:
        notes.append(f"{wanted} GPUs cannot make a global batch of {size}: predicted for {world_size}")
    return plan, (plan.total_steps if samples.per_epoch else config.max_steps) if known else None, notes


def _parts(
    model: Exo2EgoForConditionalGeneration, traces: dict[int, Trace], mean_views: float, num_clips: int
) -> dict[str, PartPrediction]:
    parameters: dict[str, int] = defaultdict(int)
    trained: dict[str, int] = defaultdict(int)
    for name, parameter in model.named_parameters():
        inside = [module for module in PARTS if name.startswith(f"{module}.")]
        part = ADAPTERS if "lora_" in name else PARTS[max(inside, key=len)]
        parameters[part] += parameter.numel()
        trained[part] += parameter.numel() * parameter.requires_grad
    most = traces[max(traces)]
    order = [*PARTS.values(), ADAPTERS, *sorted(most.parts.keys() - PARTS.values() - {ADAPTERS})]
    found: dict[str, PartPrediction] = {}
    for part in (part for part in order if part in most.parts or parameters[part]):
        flops = {
            kind: at_mean(
                {
                    views: getattr(trace.parts[part], kind) if part in trace.parts else 0.0
                    for views, trace in traces.items()
                    if views in (math.floor(mean_views), math.ceil(mean_views))
                },
                mean_views,
            )
            / num_clips
            for kind in ("forward_flops", "model_flops", "recomputed_flops")
        }
        kept = most.parts[part].kept_bytes if part in most.parts else 0
        found[part] = PartPrediction(parameters[part], trained[part], kept_bytes=kept, **flops)
    return found


def _frozen_bytes(model: Exo2EgoForConditionalGeneration) -> int:
    return sum(p.nbytes for p in model.parameters() if not p.requires_grad)


def _largest_block_bytes(model: Exo2EgoForConditionalGeneration) -> int:
    """Returns the weights of the largest language model block, which ZeRO-3 gathers while it is computed."""
    blocks = model.model.language_model.layers
    return max(sum(p.nbytes for p in block.parameters()) for block in blocks)
