"""Saving while training: what one process writes and all processes agree on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch.optim.lr_scheduler import LRScheduler

from exo2ego.data.failures import FailureBudget
from exo2ego.errors import CheckpointError, DataError
from exo2ego.storage import require_free_space
from exo2ego.train.checkpoint import (
    checkpoint_bytes,
    checkpoint_folders,
    num_kept,
    rotate_checkpoints,
    save_checkpoint,
)
from exo2ego.train.preparation import Prepared
from exo2ego.train.updating import Updater


def require_space(prepared: Prepared, accelerator: Accelerator) -> None:
    """Raises `CheckpointError`, on all processes, when the disk cannot hold what the run will keep and one more."""
    config = prepared.stage.config
    run_dir, keep = Path(config.output_dir), config.checkpoint
    fault: list[str | None] = [None]
    if accelerator.is_main_process:
        kept = num_kept(prepared.plan.total_steps, **keep.model_dump())
        size = checkpoint_bytes(value for value in prepared.model.parameters() if value.requires_grad)
        missing = max(1, kept + 1 - len(checkpoint_folders(run_dir)))
        what = f"{missing} checkpoints (those that checkpoint.keep_last and keep_every keep, and one being written)"
        try:
            require_free_space(run_dir, missing * size, f"room for {what}")
        except (DataError, OSError) as error:
            fault = [str(error)]
    _stop_together(fault)


def _stop_together(fault: list[str | None]) -> None:
    """Raises on all processes what happened on the main one."""
    if broadcast_object_list(fault)[0] is not None:
        raise CheckpointError(fault[0])


def saver_of(
    prepared: Prepared, updater: Updater, scheduler: LRScheduler, failures: FailureBudget
) -> Callable[[int], None]:
    """Returns what saves a step's checkpoint; all processes call it, and stop together if it cannot be written."""
    accelerator, config = updater.accelerator, prepared.stage.config
    run_dir, keep = Path(config.output_dir), config.checkpoint

    def save(step: int) -> None:
        optimizer_state = {"optimizer": updater.state(), "scheduler": scheduler.state_dict()}
        trained = updater.trained_tensors()
        fault: list[str | None] = [None]
        if accelerator.is_main_process:
            try:
                save_checkpoint(
                    run_dir,
                    record={**prepared.record(), "step": step, "unreadable": failures.num_failures},
                    trained=trained,
                    optimizer_state=optimizer_state,
                )
                rotate_checkpoints(run_dir, newest_step=step, keep_last=keep.keep_last, keep_every=keep.keep_every)
            except (CheckpointError, OSError) as error:
                fault = [str(error)]
        _stop_together(fault)

    return save
