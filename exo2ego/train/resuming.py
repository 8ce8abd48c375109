"""Continuing a run: from which checkpoint, and only as the same run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exo2ego.console import console
from exo2ego.errors import CheckpointError
from exo2ego.train.assembly import places_of
from exo2ego.train.checkpoint import RECORD, Checkpoint, checkpoint_folders, find_checkpoint, step_of
from exo2ego.train.preparation import Prepared

LOCAL_SIZE = "batch.local_size"
# what may differ between a run and its continuation: it changes no sample, no weight and no loss, at most in rounding
FREE = (
    "output_dir",
    "parent",  # compared by its weights
    "data.table",  # compared by its content
    "data.root",
    "data.clip_store",  # compared by its content
    "data.num_workers",
    "data.timeout_s",
    "data.max_worker_restarts",
    "data.max_failure_rate",
    LOCAL_SIZE,  # but see `deciding_values`
    "gradient_checkpointing",
    "compile",
    "model.attention",
    "deepspeed",
    "timeout_s",
    "checkpoint",
    "log_every",
    "hardware",
    "assumed",
)


def checkpoint_to_continue(run_dir: Path, resume: str | None) -> Checkpoint | None:
    """Returns the checkpoint that `--resume` names, None for a fresh start.

    Raises `CheckpointError` when a fresh start would mix two runs in one folder, or no sound checkpoint is there.
    """
    if resume not in (None, "auto"):
        return find_checkpoint(Path(str(resume)))
    if not checkpoint_folders(run_dir):
        return None
    if resume is None:
        raise CheckpointError(
            f"{run_dir}: holds checkpoints of an earlier run; continue it with --resume auto, or choose another "
            "output_dir"
        )
    return find_checkpoint(run_dir)


def set_later_aside(run_dir: Path, resumed: Checkpoint, resume: str | None) -> None:
    """Renames the checkpoints of this run after the one that is continued, and says so; deletes nothing.

    They would count as the newest ones: for `keep_last`, and for the next `--resume auto`. Those that the search for a
    sound one passed over become `step_N.damaged`; those after a checkpoint that `--resume` named, `step_N.abandoned`.
    """
    if resumed.path.resolve().parent != (run_dir / "checkpoints").resolve():
        return
    named = resume not in (None, "auto") and (Path(str(resume)) / RECORD).is_file()
    suffix = "abandoned" if named else "damaged"
    for path in (path for path in checkpoint_folders(run_dir) if step_of(path) > resumed.step):
        aside, number = path.with_name(f"{path.name}.{suffix}"), 1
        while aside.exists():
            number += 1
            aside = path.with_name(f"{path.name}.{suffix}.{number}")
        path.rename(aside)
        console.print(f"{path.name} of this run is {suffix}: renamed to {aside.name}", markup=False)


def last_good_checkpoint(run_dir: Path) -> str:
    """Returns a sentence that names the newest sound checkpoint of a run."""
    try:
        return f"Last good checkpoint: {find_checkpoint(run_dir).path}"
    except CheckpointError:
        return f"{run_dir} has no good checkpoint yet"


def require_same_run(prepared: Prepared, resumed: Checkpoint) -> None:
    """Raises `CheckpointError` naming everything that makes this another run than the checkpoint's."""
    then, now = resumed.record, prepared.record()
    if then["stage"] != now["stage"]:
        raise CheckpointError(f"{resumed.path} is of stage {then['stage']}, this is {now['stage']}")
    before, after = _identity(then), _identity(now)
    different = [
        f"{key}: {before.get(key)!r} then, {after.get(key)!r} now"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
    if different:
        raise CheckpointError(
            f"{resumed.path} cannot be continued with this configuration:\n  " + "\n  ".join(different) + "\n"
            "  restore these values, or start a new run in another output_dir"
        )


def _identity(record: dict[str, Any]) -> dict[str, Any]:
    """Returns everything that decides a run's course, by dotted name."""
    bound = deciding_values(record["provenance"]["config"])
    if LOCAL_SIZE in bound:  # the plan may have lowered it
        bound[LOCAL_SIZE] = record["plan"]["local_size"]
    for place in places_of(record.get("base_weights", {})):
        bound.pop(place, None)
    parent = record["parent"]
    return bound | {
        "weights of the parent": parent["identity"] if parent else None,
        "content of the base weights": record.get("base_weights"),
        "content of data.table": record["provenance"]["inputs"]["table"],
        "content of data.clip_store": record["provenance"]["inputs"].get("clip_store"),
        "steps and warm-up": [record["plan"]["total_steps"], record["plan"]["warmup_steps"]],
    }


def deciding_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what of a configuration decides a run's course, by dotted name: everything but `FREE`.

    `batch.local_size` is among it where the loss takes its statistics over the micro-batch (`gaussian_batch`).
    """
    flat = _flat(config)
    free = [name for name in FREE if name != LOCAL_SIZE or flat.get("loss.kl.kind") != "gaussian_batch"]
    return {key: value for key, value in flat.items() if not any(f"{key}.".startswith(f"{name}.") for name in free)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
