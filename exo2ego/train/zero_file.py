"""The DeepSpeed file of a run: a closed schema, so that nothing in it contradicts the stage or goes unheard."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from exo2ego.config import Config, validate_config
from exo2ego.errors import ConfigError, DataError
from exo2ego.storage import read_json

# what the stage's configuration says; a second place that says otherwise would win in silence
OURS = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "optimizer",
    "scheduler",
    "fp16",
    "bf16",
    "torch_autocast",
    "activation_checkpointing",
)
REFUSED = {
    "offload_optimizer": "the optimiser would be another one (DeepSpeed's CPU Adam, compiled on every machine)",
    "offload_param": "frozen weights fit the GPU in bf16; shard them with stage 3 if they do not",
    "cpu_offload": "the optimiser would be another one (DeepSpeed's CPU Adam, compiled on every machine)",
    "cpu_offload_param": "frozen weights fit the GPU in bf16; shard them with stage 3 if they do not",
    "zero_quantized_weights": "weights would be rounded on their way between GPUs",
    "zero_quantized_nontrainable_weights": "weights would be rounded on their way between GPUs",
    "zero_quantized_gradients": "gradients would be rounded on their way between GPUs",
    "zero_hpz_partition_size": "a second copy of the weights per node is not tested here",
    "zenflow": "it updates with gradients of earlier steps",
}
STAGE_3_ONLY = "stage3_"


class ZeroOptions(Config):
    """DeepSpeed's `zero_optimization`: what is sharded, and the sizes of its messages."""

    stage: Literal[1, 2, 3]
    """1: optimiser state; 2: and gradients; 3: and weights, frozen ones too."""
    overlap_comm: bool = True
    """Exchange gradients while the backward pass goes on."""
    contiguous_gradients: bool = True
    """Copy gradients into one buffer as they come."""
    reduce_scatter: bool = True
    """Reduce every gradient to its owner instead of to all."""
    reduce_bucket_size: int = Field(default=500_000_000, gt=0)
    """Elements per gradient message; the buffer takes four bytes each."""
    allgather_partitions: bool = True
    """Gather updated weights in one message per bucket (stages 1 and 2)."""
    allgather_bucket_size: int = Field(default=500_000_000, gt=0)
    """Elements per message of updated weights (stages 1 and 2)."""
    round_robin_gradients: bool = False
    """Deal gradients out to owners in turn (stages 1 and 2)."""
    sub_group_size: int = Field(default=1_000_000_000, gt=0)
    """Elements that are updated at once (stage 3)."""
    stage3_prefetch_bucket_size: int = Field(default=50_000_000, ge=0)
    """Elements gathered ahead of their use."""
    stage3_param_persistence_threshold: int = Field(default=100_000, ge=0)
    """Tensors of fewer elements stay whole on every GPU."""
    stage3_max_live_parameters: int = Field(default=1_000_000_000, ge=0)
    """Most elements whole on a GPU at a time."""
    stage3_max_reuse_distance: int = Field(default=1_000_000_000, ge=0)
    """Keep a tensor whole if it is used again within this many elements."""

    @model_validator(mode="before")
    @classmethod
    def _is_possible_here(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            raise ValueError('expected an object such as {"stage": 2}')
        refused = [f"`{key}` cannot be used here: {REFUSED[key]}; remove it" for key in values if key in REFUSED]
        if values.get("stage") in (1, 2):
            for key in (key for key in values if key.startswith(STAGE_3_ONLY)):
                refused.append(f"`{key}` is for stage 3, but stage is {values['stage']}: remove it")
        if refused:
            raise ValueError("; ".join(refused))
        return values


class ZeroFile(Config):
    """A DeepSpeed configuration file that a stage can follow."""

    zero_optimization: ZeroOptions
    """Sharding."""
    wall_clock_breakdown: bool = False
    """Log how long forward, backward and step take."""
    memory_breakdown: bool = False
    """Log the memory after every phase of a step."""

    @model_validator(mode="before")
    @classmethod
    def _says_nothing_twice(cls, values: Any) -> Any:
        twice = [key for key in OURS if key in values] if isinstance(values, dict) else []
        if twice:
            raise ValueError(
                f"remove {', '.join(twice)}: batch, optim, precision and gradient_checkpointing decide these"
            )
        return values


def read_zero_file(path: Path) -> dict[str, Any]:
    """Returns what a DeepSpeed file says; raises `ConfigError` for what is unknown or contradicts the stage."""
    try:
        values = read_json(path, "DeepSpeed configuration")
    except DataError as error:
        raise ConfigError(f"deepspeed: {error}; stages/configs/deepspeed holds files that work") from error
    if not isinstance(values, dict):
        raise ConfigError(f'{path}: expected an object such as {{"zero_optimization": {{"stage": 2}}}}')
    return validate_config(ZeroFile, values, str(path)).model_dump(exclude_unset=True)
