"""Checkpoints: what a stage trained, complete or absent, verified by checksum, chained to the parent they build on."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.text import Text
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from exo2ego.console import console
from exo2ego.errors import CheckpointError, DataError
from exo2ego.model.weights import read_tensors
from exo2ego.storage import atomic_path, hash_file, hash_text, read_json, require_free_space, write_json

RECORD = "checkpoint.json"
WEIGHTS = "trained.safetensors"
OPTIMIZER = "optimizer.pt"
NAME = re.compile(r"step_\d+")
FORMAT_VERSION = 2  # 1: fingerprints of base weights that did not see the order of rows


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk and its record (stage, step, model options, parts, parent, hashes)."""

    path: Path
    record: dict[str, Any]

    @property
    def stage(self) -> str:
        """Returns the name of the stage that wrote it."""
        return str(self.record["stage"])

    @property
    def step(self) -> int:
        """Returns the optimiser steps taken."""
        return int(self.record["step"])

    @property
    def identity(self) -> str:
        """Returns a hash that changes with any weight: the checksum of the trained tensors."""
        return str(self.record["files"][WEIGHTS])

    def tensors(self) -> dict[str, Tensor]:
        """Reads the trained tensors."""
        return read_tensors(self.path / WEIGHTS)


def save_checkpoint(
    run_dir: Path, *, record: dict[str, Any], trained: dict[str, Tensor], optimizer_state: dict[str, Any]
) -> Checkpoint:
    """Writes `run_dir/checkpoints/step_N` with checksums, complete or not at all.

    Raises `CheckpointError` when it cannot be written, before writing where the disk is too full to begin with.
    """
    path = run_dir / "checkpoints" / f"step_{record['step']:08d}"
    try:
        require_free_space(path.parent, checkpoint_bytes(trained.values()), "a checkpoint (weights, optimiser)")
        with atomic_path(path) as temporary:
            temporary.mkdir()
            save_file({name: tensor.contiguous() for name, tensor in trained.items()}, str(temporary / WEIGHTS))
            torch.save(optimizer_state, temporary / OPTIMIZER)
            files = {name: hash_file(temporary / name) for name in (WEIGHTS, OPTIMIZER)}
            complete = {"format": FORMAT_VERSION, **record, "files": files}
            complete["checksum"] = _checksum(complete)
            write_json(temporary / RECORD, complete)
    # torch and safetensors wrap a full disk in their own types
    except (DataError, OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: the checkpoint could not be written ({error}); earlier checkpoints are untouched: "
            "free space and continue with --resume auto"
        ) from error
    return Checkpoint(path, complete)


def checkpoint_bytes(trained: Iterable[Tensor]) -> int:
    """Returns what a checkpoint takes on disk, rounded up: every trained tensor and two moments of its size."""
    return int(3.1 * sum(tensor.numel() * tensor.element_size() for tensor in trained)) + 2**20


def num_kept(total_steps: int, *, every_steps: int, keep_last: int, keep_every: int | None) -> int:
    """Returns the most checkpoints that `rotate_checkpoints` leaves of a run of `total_steps`."""
    num_saved = math.ceil(total_steps / every_steps)
    for_good = total_steps // math.lcm(every_steps, keep_every) if keep_every is not None else 0
    return min(num_saved, keep_last + for_good)


def rotate_checkpoints(run_dir: Path, *, newest_step: int, keep_last: int, keep_every: int | None) -> None:
    """Removes all but the last `keep_last` checkpoints up to `newest_step` and those at multiples of `keep_every`.

    Later ones are a damaged rest of the run that was continued; they are replaced when it comes to them.
    """
    found = [path for path in checkpoint_folders(run_dir) if step_of(path) <= newest_step]
    for path in found[:-keep_last]:
        if keep_every is None or step_of(path) % keep_every:
            shutil.rmtree(path)


def checkpoint_folders(run_dir: Path) -> list[Path]:
    """Returns the checkpoints of a run by step, sound or not; what a killed save left half-written is none."""
    return sorted((path for path in run_dir.glob("checkpoints/step_*") if NAME.fullmatch(path.name)), key=step_of)


def step_of(path: Path) -> int:
    """Returns the step that a checkpoint folder is named for."""
    return int(path.name.removeprefix("step_"))


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens and verifies one checkpoint folder; raises `CheckpointError` naming what is missing or damaged."""
    if not (path / RECORD).is_file():
        raise CheckpointError(f"{path}: not a checkpoint: {RECORD} is missing")
    try:
        record = read_json(path / RECORD, "checkpoint record")
        if record.get("checksum") != _checksum(record):
            raise CheckpointError(f"{path}: {RECORD} is damaged: its checksum does not fit its content")
        if record["format"] != FORMAT_VERSION:
            raise CheckpointError(f"{path}: has format {record['format']}, this version reads {FORMAT_VERSION}")
        if NAME.fullmatch(path.name) and step_of(path) != record["step"]:
            raise CheckpointError(f"{path}: holds step {record['step']}: it is not the folder that was written")
        for name, expected in record["files"].items():
            if hash_file(path / name) != expected:
                raise CheckpointError(f"{path}: {name} is damaged: its checksum differs from the one written with it")
    except (DataError, AttributeError, KeyError, OSError) as error:  # JSON, but no record
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    return Checkpoint(path, record)


def _checksum(record: dict[str, Any]) -> str:
    values = {key: value for key, value in record.items() if key != "checksum"}
    return hash_text(json.dumps(values, sort_keys=True))


def find_checkpoint(path: Path) -> Checkpoint:
    """Opens a checkpoint folder or a run folder's newest sound checkpoint; says so when a newer one is damaged."""
    if (path / RECORD).is_file():
        return open_checkpoint(path)
    found = checkpoint_folders(path)
    if not found:
        what = "has no checkpoints" if path.is_dir() else "does not exist"
        raise CheckpointError(f"{path}: {what}; give a run folder of a finished stage or one of its checkpoints")
    faults = []
    for candidate in reversed(found):
        try:
            checkpoint = open_checkpoint(candidate)
        except CheckpointError as error:
            faults.append(str(error))
            continue
        for fault in faults:
            console.print(Text.assemble(("damaged checkpoint skipped", "yellow"), f" {fault}; using {candidate.name}"))
        return checkpoint
    raise CheckpointError(f"{path}: no sound checkpoint: " + "; ".join(faults))


def checkpoint_chain(checkpoint: Checkpoint) -> list[Checkpoint]:
    """Returns a checkpoint's ancestors, the first stage first, itself last; raises `CheckpointError` if one is gone."""
    chain = [checkpoint]
    while (parent := chain[0].record["parent"]) is not None:
        chain.insert(0, _open_parent(chain[0], parent))
    return chain


def _open_parent(child: Checkpoint, parent: dict[str, str]) -> Checkpoint:
    candidates = [(child.path / parent["relative_path"]).resolve(), Path(parent["path"])]
    existing = next((path for path in candidates if (path / RECORD).is_file()), None)
    if existing is None:
        raise CheckpointError(
            f"{child.path}: its parent {parent['path']} is gone; a checkpoint holds only what its stage trained: "
            "put the parent back, or use an exported model"
        )
    opened = open_checkpoint(existing)
    if opened.identity != parent["identity"]:
        raise CheckpointError(f"{child.path}: its parent {existing} has other weights than when this stage started")
    return opened


def parent_record(parent: Checkpoint | None, child_dir: Path) -> dict[str, str] | None:
    """Returns what a checkpoint notes about the one it builds on; paths survive moving the runs together."""
    if parent is None:
        return None
    path = parent.path.resolve()
    return {
        "stage": parent.stage,
        "path": str(path),
        "relative_path": os.path.relpath(path, (child_dir / "checkpoints" / "step").resolve()),
        "identity": parent.identity,
    }


def load_optimizer_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """Reads optimiser and schedule state without unpickling code."""
    state: dict[str, Any] = torch.load(checkpoint.path / OPTIMIZER, map_location="cpu", weights_only=True)
    return state
