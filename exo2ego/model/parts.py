"""Which optional parts a stage's model has, and in which checkpoints each part's weights are found (torch-free)."""

from __future__ import annotations

from exo2ego.config import Config


class LoraOptions(Config):
    """Low-rank adapters on the language model in stage 3 (Exo2Ego §4.4; sizes from VideoLLaMA2's LoRA recipe)."""

    rank: int = 128
    """Rank r of every adapter (VideoLLaMA2: 128; not stated in the paper)."""
    alpha: int = 256
    """Scale numerator: the update is alpha / rank * B A (VideoLLaMA2: 256)."""
    dropout: float = 0.1
    """Dropout on the adapter's input, fraction (not stated in the paper)."""


class ModelParts(Config):
    """The training-only parts of a model."""

    teacher: bool = False
    """Exocentric tower (stages 1 and 2)."""
    mapper: bool = False
    """F (from stage 2 on)."""
    inverse: bool = False
    """G (stage 2 only; A19)."""
    lora: LoraOptions | None = None
    """Adapters on the language model (stage 3)."""
