"""Reading weight files without running code in them, and loading them exactly: every tensor has one place."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging

from exo2ego.errors import CheckpointError, DataError
from exo2ego.storage import read_json

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


def load_pretrained(
    auto_class: Any, source: str, *, is_unused: Callable[[str], bool] = lambda name: False, **options: Any
) -> PreTrainedModel:
    """Loads a model through one of transformers' Auto classes, which would replace a missing tensor by a random one.

    `is_unused` names the file's tensors that this model leaves out. Raises `CheckpointError` when a tensor is missing,
    unexpected or misshapen, or a file is damaged.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its table of unexpected tensors; what matters of it is raised below
    try:
        model, report = auto_class.from_pretrained(
            source, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{source}: the model cannot be loaded: {error}") from error
    finally:
        logging.set_verbosity(verbosity)
    missing = sorted(report["missing_keys"])
    unexpected = sorted(name for name in report["unexpected_keys"] if not is_unused(name))
    misshapen = sorted(map(str, report["mismatched_keys"]))
    if missing or unexpected or misshapen:
        raise CheckpointError(
            f"{source}: {len(missing)} tensors are missing {missing[:3]}, {len(unexpected)} unexpected "
            f"{unexpected[:3]}, {len(misshapen)} misshapen {misshapen[:3]}; is this the right model?"
        )
    loaded: PreTrainedModel = model
    return loaded


def connector_weights_of_videollama2(folder: Path) -> dict[str, Tensor]:
    """Returns the connector's tensors of a VideoLLaMA2 folder, under our names (VideoLLaMA2's without the prefix).

    Reads `mm_projector.bin` of a `-Base` release without unpickling code, or the safetensors shards of a full one.
    Raises `CheckpointError` when there is neither, or a file is damaged or holds something else than tensors.
    """
    projector, index = folder / "mm_projector.bin", folder / "model.safetensors.index.json"
    try:
        if projector.is_file():
            tensors = dict(torch.load(projector, map_location="cpu", weights_only=True))
        elif index.is_file():
            tensors = _shard_tensors(folder, read_json(index, "index of a VideoLLaMA2 checkpoint")["weight_map"])
        else:
            raise CheckpointError(f"{folder}: expected {projector.name} or {index.name} of a VideoLLaMA2 checkpoint")
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{projector}: not only tensors, or damaged; code in a file is never run") from error
    except (EOFError, KeyError, OSError, RuntimeError, SafetensorError, TypeError, ValueError, DataError) as error:
        raise CheckpointError(f"{folder}: the connector's weights cannot be read: {error}") from error
    found = {
        name.removeprefix(PROJECTOR_PREFIX): tensor.float()
        for name, tensor in tensors.items()
        if name.startswith(PROJECTOR_PREFIX)
    }
    if not found:
        raise CheckpointError(f"{folder}: no tensor starts with {PROJECTOR_PREFIX}")
    return found


def _shard_tensors(folder: Path, shard_of: Mapping[str, str]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    names = [name for name in shard_of if name.startswith(PROJECTOR_PREFIX)]
    for shard in sorted({shard_of[name] for name in names}):
        with safe_open(str(folder / shard), framework="pt") as stream:
            tensors |= {name: stream.get_tensor(name) for name in names if shard_of[name] == shard}
    return tensors
