"""Checkpoints: what a stage trained, complete or absent, verified by checksum, chained to the parent they build on."""

from __future__ import annotations

import os
import random
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from exo2ego.console import console
from exo2ego.errors import CheckpointError, DataError
from exo2ego.model.weights import read_tensors
from exo2ego.storage import atomic_path, hash_file, read_json, remove_leftovers, require_free_space, write_json

RECORD = "checkpoint.json"
WEIGHTS = "trained.safetensors"
OPTIMIZER = "optimizer.pt"
RANDOM_STATE = "random_state_{process}.pt"
NAME = re.compile(r"step_(\d+)$")
FORMAT_VERSION = 1


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
    run_dir: Path,
    *,
    record: dict[str, Any],
    trained: dict[str, Tensor],
    optimizer_state: dict[str, Any],
    random_states: list[dict[str, Any]],
) -> Checkpoint:
    """Writes `run_dir/checkpoints/step_N` atomically with checksums; raises `DataError` before writing when the disk is full."""
    folder = run_dir / "checkpoints"
    size = sum(tensor.numel() * tensor.element_size() for tensor in trained.values())
    require_free_space(folder, int(3.1 * size) + 2**20, "a checkpoint (weights and two optimiser moments)")
    path = folder / f"step_{record['step']:08d}"
    try:
        with atomic_path(path) as temporary:
            temporary.mkdir()
            save_file({name: tensor.contiguous() for name, tensor in trained.items()}, str(temporary / WEIGHTS))
            torch.save(optimizer_state, temporary / OPTIMIZER)
            for process, state in enumerate(random_states):
                torch.save(state, temporary / RANDOM_STATE.format(process=process))
            files = {file.name: hash_file(file) for file in sorted(temporary.iterdir())}
            for file in temporary.iterdir():
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
            complete = {"format": FORMAT_VERSION, **record, "files": files}
            write_json(temporary / RECORD, complete)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors wrap a full disk in their own types
        raise CheckpointError(
            f"{path}: the checkpoint could not be written ({error}); earlier checkpoints are untouched: "
            "free space and continue with --resume auto"
        ) from error
    except DataError as error:
        raise CheckpointError(f"{error}; continue with --resume auto") from error
    return Checkpoint(path, complete)


def rotate_checkpoints(run_dir: Path, *, keep_last: int, keep_every: int | None) -> None:
    """Removes all but the newest `keep_last` checkpoints and those at multiples of `keep_every`."""
    folder = run_dir / "checkpoints"
    found = _checkpoint_folders(folder)
    for path in found[:-keep_last]:
        if keep_every is None or _step(path) % keep_every:
            shutil.rmtree(path)
    remove_leftovers(folder)


def _step(path: Path) -> int:
    match = NAME.search(path.name)
    assert match is not None
    return int(match[1])


def _checkpoint_folders(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("step_*") if NAME.search(path.name)), key=_step)


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens and verifies one checkpoint folder; raises `CheckpointError` naming what is missing or damaged."""
    if not (path / RECORD).is_file():
        raise CheckpointError(f"{path}: not a checkpoint: {RECORD} is missing")
    try:
        record = read_json(path / RECORD, "checkpoint record")
    except DataError as error:
        raise CheckpointError(str(error)) from error
    for name, expected in record["files"].items():
        if not (path / name).is_file():
            raise CheckpointError(f"{path}: {name} is missing")
        if hash_file(path / name) != expected:
            raise CheckpointError(f"{path}: {name} is damaged: its checksum differs from the one written with it")
    return Checkpoint(path, record)


def find_checkpoint(path: Path) -> Checkpoint:
    """Opens a checkpoint folder or a run folder's newest sound checkpoint; says so when a newer one is damaged."""
    if (path / RECORD).is_file():
        return open_checkpoint(path)
    found = _checkpoint_folders(path / "checkpoints")
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
            console.print(f"[yellow]damaged checkpoint skipped[/] {fault}; using {candidate.name}", markup=True)
        return checkpoint
    raise CheckpointError(f"{path}: no sound checkpoint: " + "; ".join(faults))


def checkpoint_chain(checkpoint: Checkpoint) -> list[Checkpoint]:
    """Returns the checkpoint's ancestors from the first stage on, itself last; raises `CheckpointError` when one is gone."""
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


def random_state() -> dict[str, Any]:
    """Returns the state of every random number generator of this process, as tensors and numbers only."""
    name, keys, position, has_gauss, cached = numpy.random.get_state()  # type: ignore[misc]
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(name), torch.from_numpy(keys.astype(numpy.int64)), int(position), int(has_gauss), float(cached)],
        "python": [version, list(internal), gauss],
    }


def restore_random_state(path: Path) -> None:
    """Sets the generators of this process from a checkpoint's file; never unpickles code."""
    state = torch.load(path, weights_only=True)
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, position, has_gauss, cached = state["numpy"]
    numpy.random.set_state((name, keys.numpy().astype(numpy.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def load_optimizer_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """Reads optimiser and schedule state without unpickling code."""
    state: dict[str, Any] = torch.load(checkpoint.path / OPTIMIZER, map_location="cpu", weights_only=True)
    return state


