"""Reading weight files without running code in them, and loading them exactly: every tensor has one place."""

from __future__ import annotations

import pickle
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging

from exo2ego.console import console
from exo2ego.errors import CheckpointError

# what torch, pickle and zipfile raise for a file that is damaged, cut off, or something else
UNREADABLE = (EOFError, KeyError, OSError, RuntimeError, SafetensorError, TypeError, ValueError)


def tell_loaded(part: str, source: object, loaded: int, expected: int, left_out: Iterable[str] = ()) -> None:
    """Prints `loaded n / expected n` of a part, and how many tensors of the file were left out, by kind."""
    kinds = Counter(_kind(name) for name in left_out)
    beside = f"; left out: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}" if kinds else ""
    console.print(f"loaded {loaded} / expected {expected} tensors: {part} from {source}{beside}", markup=False)


def _kind(name: str) -> str:
    """Returns `layers.23` for a tensor of that layer of the tower, else the word that says what it belongs to."""
    own = re.sub(r"^(model|vision_model|visual)\.", "", name)
    layer = re.match(r"(?:encoder\.)?((?:layers|blocks)\.\d+)\.", own)
    return layer[1] if layer else own.split(".")[0]


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


def read_pickled_tensors(path: Path) -> dict[str, Any]:
    """Reads a `.bin` or `.pt` file of tensors and plain values; code in it is a `CheckpointError` and never run."""
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True, mmap=False))
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: not only tensors, or damaged; code in a file is never run") from error
    except UNREADABLE as error:
        raise CheckpointError(f"{path}: the weights cannot be read: {error}") from error


def load_pretrained(
    auto_class: Any,
    source: str,
    *,
    part: str,
    is_unused: Callable[[str], bool] = lambda name: False,
    **options: Any,
) -> PreTrainedModel:
    """Loads a model through one of transformers' Auto classes, which would replace a missing tensor by a random one.

    `is_unused` names the file's tensors that this model leaves out; their number is printed with that of the loaded.
    Raises `CheckpointError` when a tensor is missing, unexpected or misshapen, or a file is damaged.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its table of unexpected tensors; what matters of it is raised below
    try:
        model, report = auto_class.from_pretrained(
            source, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{source}: not only tensors, or damaged; code in a file is never run") from error
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{source}: the model cannot be loaded: {error}") from error
    finally:
        logging.set_verbosity(verbosity)
    own = _tensor_names(model)
    expected = {name for name in own if not is_unused(name)}
    missing = sorted(name for name in report["missing_keys"] if not is_unused(name))
    left_out = (own - expected) | set(report["unexpected_keys"])
    unexpected = sorted(name for name in left_out if not is_unused(name))
    misshapen = sorted(map(str, report["mismatched_keys"]))
    if missing or unexpected or misshapen:
        raise CheckpointError(
            f"{source}: loaded {len(expected) - len(missing) - len(misshapen)} / expected {len(expected)} tensors of "
            f"the {part}; {len(missing)} tensors are missing {missing[:3]}, {len(unexpected)} unexpected "
            f"{unexpected[:3]}, {len(misshapen)} misshapen {misshapen[:3]}; is this the right model?"
        )
    tell_loaded(part, source, len(expected), len(expected), sorted(left_out))
    loaded: PreTrainedModel = model
    return loaded


def _tensor_names(model: nn.Module) -> set[str]:
    """Returns the names under which a model's weights are saved; tied ones once."""
    buffers = {name for name, _ in model.named_buffers()} & model.state_dict().keys()
    return {name for name, _ in model.named_parameters()} | buffers
