"""Joining the processes of a run: device, backend, DeepSpeed, and who talks."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, KwargsHandler

from exo2ego.console import console
from exo2ego.errors import ConfigError
from exo2ego.train.options import StageConfig


def start_accelerator(config: StageConfig) -> Accelerator:
    """Joins the other processes, with DeepSpeed where the configuration says so; only the main one talks."""
    on_cpu, plugin = not torch.cuda.is_available(), None
    if config.deepspeed is not None:
        from exo2ego.train.zero import deepspeed_plugin

        plugin = deepspeed_plugin(Path(config.deepspeed), compiles=bool(config.compile))
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    backend = "gloo" if on_cpu and plugin is not None else None  # accelerate would see one process
    handlers: list[KwargsHandler] = [
        DistributedDataParallelKwargs(gradient_as_bucket_view=True),  # no second copy
        InitProcessGroupKwargs(backend=backend, timeout=timedelta(seconds=config.timeout_s)),
    ]
    accelerator = Accelerator(
        mixed_precision="no",  # the loop's own autocast: accelerate's would turn every output into float32
        deepspeed_plugin=plugin,
        cpu=on_cpu and plugin is None,  # told to use the CPU, accelerate would leave DeepSpeed out
        kwargs_handlers=handlers,
        rng_types=[],
    )
    if plugin is not None:
        from exo2ego.train.zero import build_models_whole

        build_models_whole()
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != started:
        raise ConfigError(f"{started} processes started, accelerate sees {accelerator.num_processes}: use torchrun")
    console.quiet = not accelerator.is_main_process
    transformers.utils.logging.disable_progress_bar()
    return accelerator
