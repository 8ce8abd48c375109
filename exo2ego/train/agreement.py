"""What all processes of a run must agree on: the main one chooses, the others follow, or all stop together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from exo2ego.errors import CheckpointError, DataError
from exo2ego.storage import read_json
from exo2ego.train.checkpoint import RECORD, Checkpoint


def chosen_by_main(accelerator: Accelerator, choose: Callable[[], Checkpoint | None]) -> Checkpoint | None:
    """Returns the checkpoint that the main process chooses and verifies; all processes call it.

    The others compare its record only: hashing it once per process would read it from the disk as often. Raises
    `CheckpointError` on all processes when it cannot be chosen, or when any of them sees another one at its path.
    """
    chosen: Checkpoint | None = None

    def choose_once() -> None:
        nonlocal chosen
        chosen = choose()

    done_by_main(accelerator, choose_once)
    shared: list[Checkpoint | None] = [chosen]
    chosen = broadcast_object_list(shared)[0]
    faults = [] if chosen is None or accelerator.is_main_process else _differences(chosen, accelerator.process_index)
    if accelerator.num_processes > 1 and (found := gather_object(faults)):
        raise CheckpointError("; ".join(found))
    return chosen


def _differences(chosen: Checkpoint, process: int) -> list[str]:
    path = chosen.path / RECORD
    try:
        same = read_json(path, "checkpoint record") == chosen.record
    except (DataError, OSError) as error:
        return [f"process {process} cannot read the checkpoint that the main process chose: {error}"]
    return [] if same else [f"{path}: process {process} sees another checkpoint there than the main process"]


def done_by_main(accelerator: Accelerator, action: Callable[[], None]) -> None:
    """Runs something on the main process only; raises on all processes, as `CheckpointError`, what failed there."""
    fault: list[str | None] = [None]
    cause: Exception | None = None
    if accelerator.is_main_process:
        try:
            action()
        except (CheckpointError, DataError, OSError) as error:
            cause, fault = error, [str(error)]
    if broadcast_object_list(fault)[0] is not None:
        raise CheckpointError(fault[0]) from cause


def require_agreement(accelerator: Accelerator, values: dict[str, Any]) -> None:
    """Raises `CheckpointError`, on all processes, naming every value that they do not have in common."""
    if accelerator.num_processes == 1:
        return
    everyone: list[dict[str, Any]] = gather_object([values])
    different = [
        f"{key}: {', '.join(f'{one[key]!r} in process {number}' for number, one in enumerate(everyone))}"
        for key in values
        if any(one[key] != everyone[0][key] for one in everyone)
    ]
    if different:
        raise CheckpointError(
            "the processes are not about to train the same run:\n  " + "\n  ".join(different) + "\n"
            "  give all of them the same configuration, and folders that they all see alike"
        )
