"""Activation checkpointing for modules outside transformers, which its own flag does not reach."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Recomputing(nn.Module):
    """A module whose blocks can compute their activations again in the backward pass instead of keeping them."""

    gradient_checkpointing = False

    def run(self, blocks: Iterable[nn.Module], value: Tensor) -> Tensor:
        """Applies the blocks one after another; each is a unit of recomputation."""
        recomputes = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        for block in blocks:
            value = checkpoint(block, value, use_reentrant=False) if recomputes else block(value)
        return value
