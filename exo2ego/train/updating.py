"""From losses to changed weights: gradients over micro-batches and processes, their norm, and the optimiser's step."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

if TYPE_CHECKING:
    from accelerate import Accelerator


class Updater:
    """One process, or several with DDP. A bad step can be given up between `clip` and `apply`: nothing has changed.

    `model` is as accelerate prepared it. Accelerate's own calls are left out of the step: some look for packages.
    """

    def __init__(
        self, accelerator: Accelerator, model: nn.Module, optimizer: Optimizer, *, max_gradient_norm: float
    ) -> None:
        self.accelerator = accelerator
        self.model = model
        self.bare = model.module if isinstance(model, DistributedDataParallel) else model
        self.optimizer = optimizer
        self.max_gradient_norm = max_gradient_norm
        self.num_processes: int = accelerator.num_processes
        self.trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if isinstance(model, DistributedDataParallel):
            for parameter in (parameter for parameter in self.trained if 1 in parameter.shape):
                parameter.register_hook(partial(_strided_like, parameter))

    def gathering(self, *, last: bool) -> AbstractContextManager[None]:
        """Surrounds forward and backward of one micro-batch; the processes exchange gradients in the last one."""
        return self.model.no_sync() if isinstance(self.model, DistributedDataParallel) and not last else nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of a loss that is this process's share of the global mean."""
        # the processes' gradients are averaged, the shares are to be summed
        (loss if self.num_processes == 1 else loss * self.num_processes).backward()

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

    def gathered(self, values: list[Any]) -> list[Any]:
        """Returns the processes' lists as one; all processes call it."""
        if self.num_processes == 1:
            return values
        from accelerate.utils import gather_object

        together: list[Any] = gather_object(values)
        return together

    def trained_tensors(self) -> dict[str, Tensor]:
        """Returns what trains by name, on the CPU, on the main process; empty elsewhere. All processes call it."""
        if not self.accelerator.is_main_process:
            return {}
        return {name: value.detach().cpu() for name, value in self.bare.named_parameters() if value.requires_grad}

    def state(self) -> dict[str, Any]:
        """Returns the optimiser's state as torch writes it, complete on the main process; all processes call it."""
        return self.optimizer.state_dict()

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes a state over that any updater returned."""
        for values in state["state"].values():  # ZeRO used to save one counter for all parameters of a group
            values["step"] = values["step"].clone()
        self.optimizer.load_state_dict(state)

    def close(self) -> None:
        """Ends what was opened for the run; all processes call it after the last step."""


def _strided_like(parameter: nn.Parameter, gradient: Tensor) -> Tensor:
    """Gives axes of length 1 the strides of the parameter: DDP compares them, though they say nothing, and warns."""
    if gradient.stride() == parameter.stride() or not (gradient.is_contiguous() and parameter.is_contiguous()):
        return gradient
    return gradient.as_strided(parameter.shape, parameter.stride())


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Computes in bfloat16 where that is safe, or in float32 throughout."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
