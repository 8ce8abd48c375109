"""Reading weight files without running code in them, and loading them exactly: every tensor has one place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from exo2ego.errors import CheckpointError

PROJECTOR_PREFIX = "model.mm_projector."


def load_exactly(module: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Copies `weights` into `module`; raises `CheckpointError` listing missing, extra and misshapen tensors."""
    own = module.state_dict()
    missing = sorted(own.keys() - weights.keys())
    extra = sorted(weights.keys() - own.keys())
    shapes = [
        f"{name}: file {tuple(weights[name].shape)}, model {tuple(own[name].shape)}"
        for name in sorted(own.keys() & weights.keys())
        if weights[name].shape != own[name].shape
    ]
    if missing or extra or shapes:
        raise CheckpointError(
            f"{where}: loaded 0 / expected {len(own)} tensors; {len(missing)} missing {missing[:3]}, "
            f"{len(extra)} extra {extra[:3]}, {len(shapes)} of another shape {shapes[:3]}; "
            "nothing was loaded: check that the checkpoint belongs to this configuration"
        )
    module.load_state_dict(dict(weights))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads a safetensors file; raises `CheckpointError` when it is missing or damaged."""
    try:
        return dict(load_file(str(path)))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: weight file is missing") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: weight file is damaged: {error}") from error


def connector_weights_of_videollama2(folder: Path) -> dict[str, Tensor]:
    """Returns the connector's tensors of a VideoLLaMA2 folder, under our names (VideoLLaMA2's without the prefix).

    Reads `mm_projector.bin` of a `-Base` release without unpickling code, or the safetensors shards of a full one.
    """
    projector = folder / "mm_projector.bin"
    if projector.is_file():
        tensors = torch.load(projector, map_location="cpu", weights_only=True)
    elif (folder / "model.safetensors.index.json").is_file():
        tensors = _shard_tensors(folder)
    else:
        raise CheckpointError(
            f"{folder}: expected mm_projector.bin or model.safetensors.index.json of a VideoLLaMA2 checkpoint"
        )
    found = {
        name.removeprefix(PROJECTOR_PREFIX): tensor.float()
        for name, tensor in tensors.items()
        if name.startswith(PROJECTOR_PREFIX)
    }
    if not found:
        raise CheckpointError(f"{folder}: no tensor starts with {PROJECTOR_PREFIX}")
    return found


def _shard_tensors(folder: Path) -> dict[str, Tensor]:
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    tensors: dict[str, Tensor] = {}
    for shard in sorted({shard for name, shard in index["weight_map"].items() if name.startswith(PROJECTOR_PREFIX)}):
        with safe_open(str(folder / shard), framework="pt") as stream:
            for name in stream.keys():  # noqa: SIM118 - safe_open is not a mapping
                if name.startswith(PROJECTOR_PREFIX):
                    tensors[name] = stream.get_tensor(name)
    return tensors
