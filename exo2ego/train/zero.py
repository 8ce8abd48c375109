"""DeepSpeed ZeRO-1 and ZeRO-2: optimiser state and gradients are split over the processes, checkpoints are not.

The optimiser's state is saved whole, in torch's own form: a run may continue with DDP what it began with ZeRO, and on
another number of processes. ZeRO-3 is refused: it would gather the frozen language model twice per micro-batch to
split a small trained part.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DeepSpeedPlugin
from torch import Tensor, nn
from torch.optim import Optimizer

from exo2ego.errors import ConfigError
from exo2ego.storage import read_json
from exo2ego.train.batch_plan import BatchPlan
from exo2ego.train.updating import Updater

MOMENTS = ("exp_avg", "exp_avg_sq")
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
)


def deepspeed_plugin(path: Path) -> DeepSpeedPlugin:
    """Reads a DeepSpeed configuration file; raises `ConfigError` for what this training cannot follow."""
    values = read_json(path, "DeepSpeed configuration")
    stage = values.get("zero_optimization", {}).get("stage")
    if stage not in (1, 2):
        raise ConfigError(f"{path}: zero_optimization.stage is {stage}, expected 1 or 2; drop `deepspeed` for DDP")
    twice = [key for key in OURS if key in values]
    if twice:
        raise ConfigError(f"{path}: remove {', '.join(twice)}: batch, optim and precision of the stage decide these")
    if "RANK" not in os.environ:
        raise ConfigError(
            "deepspeed: start with `torchrun --nproc_per_node GPUS -m stages.STAGE`, also for one process"
        )
    os.environ.setdefault("DS_SKIP_CUDA_CHECK", "1")  # no kernel is compiled: the optimiser is torch's
    # one DeepSpeed step per optimiser step, whatever the accumulation: losses are divided by global counts already
    return DeepSpeedPlugin(hf_ds_config=values, gradient_accumulation_steps=1)


class ZeroUpdater(Updater):
    """An `Updater` on a DeepSpeed engine."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        max_gradient_norm: float,
        plan: BatchPlan,
        precision: str,
    ) -> None:
        accelerator.state.deepspeed_plugin.deepspeed_config |= {
            "train_micro_batch_size_per_gpu": plan.local_size,
            "gradient_clipping": max_gradient_norm,
            # an empty list: gradients are exchanged in float32
            "torch_autocast": {"enabled": precision == "bf16", "dtype": "bfloat16", "lower_precision_safe_modules": []},
        }
        self.groups = [list(group["params"]) for group in optimizer.param_groups]  # before DeepSpeed flattens them
        engine, prepared = accelerator.prepare(model, optimizer)
        super().__init__(accelerator, engine, prepared, max_gradient_norm=max_gradient_norm)
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

    def state(self) -> dict[str, Any]:
        """Gathers the optimiser's state, one parameter at a time; all processes must call it."""
        from deepspeed.utils import safe_get_full_optimizer_state

        self._link_moments()
        flat = [self.inner.state[group["params"][0]] for group in self.inner.param_groups]
        state: dict[int, dict[str, Tensor]] = {}
        groups: list[dict[str, Any]] = []
        for group, parameters, of_flat in zip(self.inner.param_groups, self.groups, flat, strict=True):
            indices = range(len(state), len(state) + len(parameters))
            groups.append({**group, "params": list(indices)})
            for index, parameter in zip(indices, parameters, strict=True):
                moments = {key: safe_get_full_optimizer_state(parameter, key) for key in MOMENTS}
                if self.accelerator.is_main_process:
                    moments = {key: moment.cpu() for key, moment in moments.items()}
                    state[index] = {"step": of_flat["step"], **moments}
                else:
                    state[index] = {}
        return {"state": state, "param_groups": groups}

    def load_state(self, state: dict[str, Any]) -> None:
        """Cuts a whole state up again."""
        from deepspeed.utils import safe_set_full_optimizer_state

        for group, saved in zip(self.inner.param_groups, state["param_groups"], strict=True):
            flat = group["params"][0]
            step = state["state"][saved["params"][0]]["step"].clone()
            self.inner.state[flat] = {"step": step, **{key: torch.zeros_like(flat) for key in MOMENTS}}
            group |= {key: value for key, value in saved.items() if key != "params"}
        self._link_moments()
        for index, parameter in enumerate(parameter for group in self.groups for parameter in group):
            for key in MOMENTS:
                value = state["state"][index][key].to(parameter.device)
                safe_set_full_optimizer_state(parameter, value, key)

    def _link_moments(self) -> None:
        """Tells the parameters where their moments are: DeepSpeed does it once, before its second group has any."""
        self.sharded._hp_optimizer_states_linked = False
        self.sharded._lazy_init_hp_params_optimizer_state()
