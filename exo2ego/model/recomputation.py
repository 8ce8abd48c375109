"""Activation checkpointing of every part: transformers' own, and ours for the modules that its flag does not reach."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel


class Recomputing(nn.Module):
    """A module whose blocks can compute their activations again in the backward pass, and be compiled one by one."""

    gradient_checkpointing = False
    compile_backend: str | None = None
    """Of torch.compile; None = blocks run as they are."""
    # under the name it has in transformers' layers: exo2ego/model/cost.py puts its own in the place of both
    _gradient_checkpointing_func: Callable[..., Any] = staticmethod(partial(checkpoint, use_reentrant=False))

    def run(self, blocks: Iterable[nn.Module], value: Tensor) -> Tensor:
        """Applies the blocks one after another; each is a unit of recomputation and of compilation."""
        recomputes = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        for block in blocks:
            if self.compile_backend is not None and block._compiled_call_impl is None:
                block.compile(backend=self.compile_backend)
            value = self._gradient_checkpointing_func(block, value) if recomputes else block(value)
        return value


def recompute_activations(module: nn.Module) -> None:
    """Turns activation checkpointing on in a model of transformers or a `Recomputing` module."""
    if isinstance(module, PreTrainedModel):
        # transformers 5.23 renamed it
        enable = getattr(module, "activation_checkpointing_enable", None) or module.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    elif isinstance(module, Recomputing):
        module.gradient_checkpointing = True
