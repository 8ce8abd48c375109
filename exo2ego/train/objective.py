"""What a stage gives the training loop for one micro-batch: sums, what they are divided by, and their weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Unit = Literal["target_token", "clip"]


@dataclass(frozen=True)
class Term:
    """One loss term of a micro-batch, not yet averaged."""

    total: Tensor
    """Sum over the micro-batch's target tokens or clips, float32 scalar."""
    per: Unit
    """What the loop divides by, counted over the whole global batch: accumulation cannot reweight anything."""
    weight: float = 1.0
    """Factor in the total loss."""


Terms = dict[str, Term]
