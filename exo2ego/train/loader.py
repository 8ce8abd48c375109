"""Reading ahead: the micro-batches of one process, from any step on."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from exo2ego.data.pairing import MicroBatches
from exo2ego.train.preparation import Prepared
from exo2ego.train.stopping import ignore_in_worker


def open_loader(prepared: Prepared, accelerator: Accelerator, start_step: int) -> DataLoader[Any]:
    """Returns the micro-batches of this process after `start_step`, decoded ahead by worker processes."""
    config, plan = prepared.stage.config, prepared.plan
    workers = config.data.num_workers
    return DataLoader(
        prepared.samples,
        batch_sampler=MicroBatches(
            prepared.order,
            local_size=plan.local_size,
            accumulation=plan.accumulation,
            process_index=accelerator.process_index,
            num_processes=accelerator.num_processes,
            start_step=start_step,
            end_step=plan.total_steps,
        ),
        collate_fn=prepared.collate,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context="forkserver" if workers else None,
        worker_init_fn=ignore_in_worker,
        # a generator of its own: the loader must not draw from the training's random numbers
        generator=torch.Generator().manual_seed(config.seed),
    )
