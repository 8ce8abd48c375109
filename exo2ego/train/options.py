"""The sections that every stage's configuration shares (torch-free)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from exo2ego.config import Config
from exo2ego.model.options import ModelOptions
from exo2ego.train.hardware import AssumedOptions, HardwareOptions

CheckpointedPart = Literal["towers", "connector", "mappers", "language_model"]


class DataOptions(Config):
    """What is read and how."""

    table: str
    """Ego-ExoClip table (clips.parquet) for initialisation and stages 1-2; EgoIT conversations (JSONL) for stage 3."""
    root: str
    """Folder that the table's video paths are relative to."""
    num_workers: int = Field(default=4, ge=0)
    """Decoding processes per GPU; 0 decodes in the training process."""
    timeout_s: float | None = Field(default=120, gt=0)
    """Longest time for one video in a decoding process, seconds; at the second time it counts as unreadable."""
    max_worker_restarts: int = Field(default=20, ge=0)
    """Decoding processes that one GPU's process may replace because they died or hung, before the run stops."""
    decoder: Literal["pyav", "decord"] = "pyav"
    """Video decoder."""
    clip_store: str | None = None
    """Folder of a clip store made of this table (python -m data_builders.clip_store), read instead of the videos."""
    max_failure_rate: float = Field(default=0.001, ge=0, le=1)
    """Share of samples whose video may be unreadable before the run stops, fraction."""
    text_format: Literal["plain", "chat"] = "plain"
    """plain: video, text; chat: the language model's turn template (not stated in the paper: A14)."""
    max_text_tokens: int = Field(default=512, ge=1)
    """Longest prompt plus answer without video tokens, tokens; longer samples are refused, never cut."""


class GroupOptions(Config):
    """What some of the trained parameters do differently."""

    multiplier: float = Field(default=1.0, gt=0)
    """Learning rate relative to what these parameters have without the group."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Weight decay of their matrices; null = optim.weight_decay. Norms and biases have none."""


class OptimOptions(Config):
    """AdamW with linear warm-up and cosine decay to zero (as VideoLLaMA2; numbers from Exo2Ego Table 14)."""

    learning_rate: float = Field(gt=0)
    """Peak learning rate."""
    tower_multiplier: float = Field(default=1.0, gt=0)
    """Learning rate of the vision towers relative to learning_rate (not stated in the paper: A15)."""
    warmup_fraction: float = Field(ge=0, lt=1)
    """Share of the steps in which the rate rises, fraction (Exo2Ego Table 14)."""
    weight_decay: float = Field(default=0.02, ge=0)
    """On matrices only: not on norms, biases, class and position embeddings (Exo2Ego §5.1)."""
    groups: dict[str, GroupOptions] = Field(default_factory=dict)
    """Pattern of parameter names (model.mapper_f.*) -> multiplier and weight_decay of its own; the first match wins."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW moment decay rates (Exo2Ego §5.1)."""
    epsilon: float = Field(default=1e-8, gt=0)
    """AdamW denominator floor."""
    max_gradient_norm: float = Field(default=1.0, gt=0)
    """Gradient clipping, global L2 norm (VideoLLaMA2)."""


class BatchOptions(Config):
    """The global batch is the contract; accumulation follows from the number of GPUs (A16)."""

    global_size: int = Field(ge=1)
    """Samples per optimiser step over all GPUs (Exo2Ego Table 14)."""
    local_size: int = Field(default=8, ge=1)
    """Largest number of samples per forward pass and GPU (Exo2Ego Table 14: 8)."""


class CheckpointOptions(Config):
    """When to save and what to keep."""

    every_steps: int = Field(default=500, ge=1)
    """Optimiser steps between checkpoints."""
    keep_last: int = Field(default=2, ge=1)
    """Newest checkpoints kept."""
    keep_every: int | None = Field(default=None, ge=1)
    """Also keep every checkpoint whose step is a multiple of this."""


class StageConfig(Config):
    """What every stage has."""

    model: ModelOptions
    """Architecture and base weights."""
    data: DataOptions
    """Input."""
    optim: OptimOptions
    """Optimiser."""
    batch: BatchOptions
    """Batch sizes."""
    checkpoint: CheckpointOptions = CheckpointOptions()
    """Saving."""
    output_dir: str
    """Folder of this run."""
    parent: str | None = None
    """Run folder or checkpoint of the stage before."""
    seed: int = Field(default=0, ge=0)
    """Seed of weights, sample order and dropout."""
    epochs: float = Field(gt=0)
    """Passes over the data (Exo2Ego Table 14)."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after this many optimiser steps; null = by epochs."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """bf16: autocast, frozen weights in bf16, trained weights and optimiser in fp32."""
    gradient_checkpointing: tuple[CheckpointedPart, ...] = ()
    """Parts that recompute activations: towers, connector, mappers, language_model."""
    compile: tuple[CheckpointedPart, ...] = ()
    """Parts whose blocks torch.compile compiles: towers, connector, mappers, language_model."""
    deepspeed: str | None = None
    """DeepSpeed configuration file (JSON) for ZeRO-1, ZeRO-2 or ZeRO-3; null = plain DDP."""
    timeout_s: int = Field(default=600, ge=1)
    """Longest time that one process waits for the others before the job ends, seconds."""
    log_every: int = Field(default=10, ge=1)
    """Optimiser steps between lines in the log."""
    hardware: HardwareOptions = HardwareOptions()
    """What `--dry-run` predicts for."""
    assumed: AssumedOptions = AssumedOptions()
    """What `--dry-run` assumes."""

    @model_validator(mode="after")
    def _batch_is_possible(self) -> StageConfig:
        if self.batch.local_size > self.batch.global_size:
            raise ValueError(
                f"batch.local_size {self.batch.local_size} is larger than batch.global_size {self.batch.global_size}"
            )
        return self
