"""From losses to changed weights: gradients over micro-batches and processes, their norm, and the optimiser's step."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer


class Updater:
    """One process, or several with DDP. A bad step can be given up between `clip` and `apply`: nothing has changed."""

    def __init__(
        self, accelerator: Accelerator, model: nn.Module, optimizer: Optimizer, *, max_gradient_norm: float
    ) -> None:
        self.accelerator = accelerator
        self.max_gradient_norm = max_gradient_norm
        self.model, self.optimizer = accelerator.prepare(model, optimizer)

    def gathering(self, *, last: bool) -> AbstractContextManager[None]:
        """Surrounds forward and backward of one micro-batch; the processes exchange gradients in the last one."""
        return contextlib.nullcontext() if last else self.accelerator.no_sync(self.model)

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of a loss that is this process's share of the global mean."""
        # the processes' gradients are averaged, the shares are to be summed
        self.accelerator.backward(loss * self.accelerator.num_processes)

    def clip(self) -> Tensor:
        """Scales the gradients down to the largest allowed norm; returns their norm before that, a scalar."""
        norm: Tensor = self.accelerator.clip_grad_norm_(self.model.parameters(), self.max_gradient_norm)
        return norm

    def apply(self) -> None:
        """Takes the optimiser's step and clears the gradients."""
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state(self) -> dict[str, Any]:
        """Returns the optimiser's state as torch writes it, complete on the main process; all processes call it."""
        state: dict[str, Any] = self.optimizer.state_dict()
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes a state over that any updater returned."""
        self.optimizer.load_state_dict(state)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Computes in bfloat16 where that is safe, or in float32 throughout."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
