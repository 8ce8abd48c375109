"""DeepSpeed ZeRO-1, ZeRO-2 and ZeRO-3: what is split over the processes differs, checkpoints do not.

Trained tensors and the optimiser's state are saved whole, in torch's own form: a run may continue with DDP what it
began with ZeRO, with another ZeRO stage, and on another number of processes. ZeRO-3 is seldom worth it here: it gathers
the frozen language model twice per micro-batch to save memory that the trained part does not need.
"""

from __future__ import annotations

import importlib.util
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DeepSpeedPlugin
from torch import Tensor, nn
from torch.optim import Optimizer

from exo2ego.errors import ConfigError
from exo2ego.train.batch_plan import BatchPlan
from exo2ego.train.updating import Updater
from exo2ego.train.zero_file import read_zero_file

MOMENTS = ("exp_avg", "exp_avg_sq")


def deepspeed_plugin(path: Path, *, compiles: bool = False) -> DeepSpeedPlugin:
    """Reads a DeepSpeed configuration file; raises `ConfigError` for what this training cannot follow."""
    values = read_zero_file(path)
    if compiles and values["zero_optimization"]["stage"] == 3:
        raise ConfigError(
            f"{path}: ZeRO-3 takes weights away between layers, which compiled blocks do not survive: "
            "drop `compile`, or use zero2.json"
        )
    if importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(f"deepspeed={path}: the package is not installed: pip install 'exo2ego[deepspeed]'")
    if "RANK" not in os.environ:
        raise ConfigError(
            "deepspeed: start with `torchrun --nproc_per_node GPUS -m stages.STAGE`, also for one process"
        )
    os.environ.setdefault("DS_SKIP_CUDA_CHECK", "1")  # no kernel is compiled: the optimiser is torch's
    if not torch.cuda.is_available():
        _leave_out_shared_memory_kernel()
    # one DeepSpeed step per optimiser step, whatever the accumulation: losses are divided by global counts already
    return DeepSpeedPlugin(hf_ds_config=values, gradient_accumulation_steps=1)


def build_models_whole() -> None:
    """Lets transformers build and load whole models: it would split them at once where it hears of ZeRO-3."""
    from transformers.integrations import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


def _leave_out_shared_memory_kernel() -> None:
    """Keeps DeepSpeed from compiling its shared-memory exchange, a minute on every new machine; gloo does the same."""
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def zero_updater(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: Optimizer,
    *,
    max_gradient_norm: float,
    plan: BatchPlan,
    precision: str,
) -> ZeroUpdater:
    """Returns the updater of the ZeRO stage that the run's DeepSpeed file names."""
    settings = accelerator.state.deepspeed_plugin.deepspeed_config
    settings |= {
        "train_micro_batch_size_per_gpu": plan.local_size,
        "train_batch_size": plan.local_size * plan.world_size,
        "gradient_clipping": max_gradient_norm,
        # an empty list: gradients are exchanged in float32
        "torch_autocast": {"enabled": precision == "bf16", "dtype": "bfloat16", "lower_precision_safe_modules": []},
    }
    kind = Zero3Updater if settings["zero_optimization"]["stage"] == 3 else ZeroUpdater
    # ZeRO-3 would put a linear layer of its own in place of torch's, which rounds twice in bf16
    settings["zero_optimization"]["memory_efficient_linear"] = False
    return kind(accelerator, model, optimizer, max_gradient_norm=max_gradient_norm)


class ZeroUpdater(Updater):
    """An `Updater` on a DeepSpeed engine that splits optimiser state, and gradients with ZeRO-2."""

    def __init__(
        self, accelerator: Accelerator, model: nn.Module, optimizer: Optimizer, *, max_gradient_norm: float
    ) -> None:
        self.groups = [list(group["params"]) for group in optimizer.param_groups]  # before DeepSpeed flattens them
        engine, prepared = accelerator.prepare(model, optimizer)
        super().__init__(accelerator, engine, prepared, max_gradient_norm=max_gradient_norm)
        self.bare = model
        self.engine: Any = engine
        self.sharded: Any = engine.optimizer
        self.inner: Optimizer = engine.optimizer.optimizer

    def gathering(self, *, last: bool) -> AbstractContextManager[None]:
        """Surrounds forward and backward of one micro-batch."""
        self.engine.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of a loss that is this process's share of the global mean."""
        self.engine.backward(loss * self.num_processes)

    def clip(self) -> Tensor:
        """Returns the gradients' norm; the step itself clips."""
        norm = torch.as_tensor(self.sharded.scaled_global_norm())
        return torch.where(norm < 0, torch.nan, norm)  # DeepSpeed's -1 stands for infinite or NaN

    def apply(self) -> None:
        """Takes the optimiser's step and clears the gradients."""
        self.engine.step()

    def close(self) -> None:
        """Takes the engine down when all processes are done: without it, ZeRO-3 sometimes aborts at exit."""
        torch.distributed.barrier()
        self.engine.destroy()

    def state(self) -> dict[str, Any]:
        """Gathers the optimiser's state, one parameter at a time; all processes must call it."""
        from deepspeed.utils import safe_get_full_optimizer_state

        self._link_moments()
        state: dict[int, dict[str, Tensor]] = {}
        groups: list[dict[str, Any]] = []
        for number, (group, parameters) in enumerate(zip(self.inner.param_groups, self.groups, strict=True)):
            indices = range(len(state), len(state) + len(parameters))
            groups.append({**group, "params": list(indices)})
            for index, parameter in zip(indices, parameters, strict=True):
                state[index] = {}
                for key in MOMENTS:
                    moment = safe_get_full_optimizer_state(parameter, key)
                    if self.accelerator.is_main_process:
                        state[index][key] = moment.cpu()
                if self.accelerator.is_main_process:
                    # a counter for each: torch would add to a shared one once for every parameter
                    state[index]["step"] = self.inner.state[self._flat_of(number, parameter)]["step"].cpu().clone()
        return {"state": state, "param_groups": groups}

    def load_state(self, state: dict[str, Any]) -> None:
        """Cuts a whole state up again."""
        index, begun = 0, set()
        for number, (group, saved) in enumerate(zip(self.inner.param_groups, state["param_groups"], strict=True)):
            for parameter in self.groups[number]:
                flat = self._flat_of(number, parameter)
                if id(flat) not in begun:
                    # on the device, where the fused optimiser wants it
                    step = state["state"][index]["step"].to(flat.device, copy=True)
                    self.inner.state[flat] = {"step": step, **{key: torch.zeros_like(flat) for key in MOMENTS}}
                    begun.add(id(flat))
                index += 1
            group |= {key: value for key, value in saved.items() if key != "params"}
        self._link_moments()
        for index, parameter in enumerate(parameter for group in self.groups for parameter in group):
            for key in MOMENTS:
                self._set_moment(parameter, key, state["state"][index][key].to(self.accelerator.device))

    def _flat_of(self, number: int, parameter: nn.Parameter) -> Tensor:
        """Returns the flat tensor that the inner optimiser updates in place of a parameter of group `number`."""
        flat: Tensor = self.inner.param_groups[number]["params"][0]
        return flat

    def _set_moment(self, parameter: nn.Parameter, key: str, whole: Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        safe_set_full_optimizer_state(parameter, whole, key)

    def _link_moments(self) -> None:
        """Tells the parameters where their moments are: DeepSpeed does it once, before its second group has any."""
        self.sharded._hp_optimizer_states_linked = False
        self.sharded._lazy_init_hp_params_optimizer_state()


class Zero3Updater(ZeroUpdater):
    """An `Updater` on a DeepSpeed engine that splits every weight too, frozen ones as well."""

    def clip(self) -> Tensor:
        """Returns the gradients' norm; the step itself clips."""
        own = [gradient.float().norm() for group in self.sharded.averaged_gradients.values() for gradient in group]
        squared = torch.stack(own).square().sum()
        if self.num_processes > 1:
            torch.distributed.all_reduce(squared)
        return squared.sqrt()

    def trained_tensors(self) -> dict[str, Tensor]:
        """Gathers what trains, one tensor at a time; complete on the main process, empty elsewhere."""
        from deepspeed.utils import safe_get_full_fp32_param

        tensors: dict[str, Tensor] = {}
        for name, parameter in self.bare.named_parameters():
            if parameter.requires_grad:
                whole = safe_get_full_fp32_param(parameter)
                if self.accelerator.is_main_process:
                    tensors[name] = whole.cpu()
        return tensors

    def _flat_of(self, number: int, parameter: nn.Parameter) -> Tensor:
        flat: Tensor = self.sharded.fp32_partitioned_groups_flat[self._place_of(parameter)[0]]
        return flat

    def _place_of(self, parameter: nn.Parameter) -> tuple[int, int, int]:
        """Returns the flat tensor of a parameter's share, its offset there, and its number of elements."""
        place: tuple[int, int, int] = self.sharded.grad_position[self.sharded.get_param_id(parameter)]
        return place

    def _set_moment(self, parameter: nn.Parameter, key: str, whole: Tensor) -> None:
        """Copies this process's share; DeepSpeed's own call cannot where the last share is filled up with zeros."""
        number, offset, size = self._place_of(parameter)
        padded = nn.functional.pad(whole.flatten(), (0, size * self.num_processes - whole.numel()))
        share = padded.narrow(0, size * self.accelerator.process_index, size)
        flat = self.sharded.fp32_partitioned_groups_flat[number]
        self.inner.state[flat][key].narrow(0, offset, size).copy_(share)

    def _link_moments(self) -> None:
        """ZeRO-3 finds the moments by itself."""
