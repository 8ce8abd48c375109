"""From losses to changed weights: gradients over micro-batches and processes, their norm, and the optimiser's step."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer


class Updater:
    """One process, or several with DDP. A bad step can be given up between `clip` and `apply`: nothing has changed.

    `model` is as accelerate prepared it. Accelerate's own calls are left out of the step: some look for packages.
    """

    def __init__(
        self, accelerator: Accelerator, model: nn.Module, optimizer: Optimizer, *, max_gradient_norm: float
    ) -> None:
        self.accelerator = accelerator
        self.model = model
        self.optimizer = optimizer
        self.max_gradient_norm = max_gradient_norm
        self.num_processes: int = accelerator.num_processes
        self.trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def gathering(self, *, last: bool) -> AbstractContextManager[None]:
        """Surrounds forward and backward of one micro-batch; the processes exchange gradients in the last one."""
        return self.model.no_sync() if isinstance(self.model, DistributedDataParallel) and not last else nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of a loss that is this process's share of the global mean."""
        # the processes' gradients are averaged, the shares are to be summed
        (loss * self.num_processes).backward()

    def clip(self) -> Tensor:
        """Scales the gradients down to the largest allowed norm; returns their norm before that, a scalar."""
        return nn.utils.clip_grad_norm_(self.trained, self.max_gradient_norm)

    def apply(self) -> None:
        """Takes the optimiser's step and clears the gradients."""
        self.optimizer.step()
        self.optimizer.zero_grad()

    def summed(self, values: Tensor) -> list[float]:
        """Adds up a tensor over the processes."""
        if self.num_processes > 1:
            torch.distributed.all_reduce(values)
        return values.tolist()

    def state(self) -> dict[str, Any]:
        """Returns the optimiser's state as torch writes it, complete on the main process; all processes call it."""
        return self.optimizer.state_dict()

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes a state over that any updater returned."""
        self.optimizer.load_state_dict(state)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Computes in bfloat16 where that is safe, or in float32 throughout."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
