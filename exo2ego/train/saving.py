"""Saving while training: what one process writes and all processes agree on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from accelerate.utils import broadcast_object_list
from torch.optim.lr_scheduler import LRScheduler

from exo2ego.data.failures import FailureBudget
from exo2ego.errors import CheckpointError
from exo2ego.train.checkpoint import rotate_checkpoints, save_checkpoint
from exo2ego.train.preparation import Prepared
from exo2ego.train.updating import Updater


def saver_of(
    prepared: Prepared, updater: Updater, scheduler: LRScheduler, failures: FailureBudget
) -> Callable[[int], None]:
    """Returns what saves a step's checkpoint; all processes call it, and stop together if it cannot be written."""
    accelerator, config = updater.accelerator, prepared.stage.config
    run_dir, keep = Path(config.output_dir), config.checkpoint

    def save(step: int) -> None:
        optimizer_state = {"optimizer": updater.state(), "scheduler": scheduler.state_dict()}
        fault: list[str | None] = [None]
        if accelerator.is_main_process:
            parameters = prepared.model.named_parameters()
            try:
                save_checkpoint(
                    run_dir,
                    record={**prepared.record(), "step": step, "unreadable": failures.num_failures},
                    trained={name: value.detach().cpu() for name, value in parameters if value.requires_grad},
                    optimizer_state=optimizer_state,
                )
                rotate_checkpoints(run_dir, newest_step=step, keep_last=keep.keep_last, keep_every=keep.keep_every)
            except (CheckpointError, OSError) as error:
                fault = [str(error)]
        if broadcast_object_list(fault)[0] is not None:  # all processes stop together
            raise CheckpointError(fault[0])

    return save
