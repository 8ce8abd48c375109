"""LoRA kept beside its base model: a folder that peft reads, tied to exactly the weights it was trained on."""

from __future__ import annotations

from pathlib import Path

from peft import inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor

from exo2ego.errors import CheckpointError, DataError
from exo2ego.model.building import lora_config
from exo2ego.model.identity import module_identity
from exo2ego.model.modeling import Exo2EgoForConditionalGeneration
from exo2ego.model.parts import LoraOptions
from exo2ego.model.weights import read_tensors, tell_loaded
from exo2ego.storage import read_json, write_json

FOLDER = "adapter"
"""Name of the adapter's folder in the folder of the model that it belongs to."""
CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "base_model.json"
# peft's name of a tensor: that of its own wrapper, and without the name of the adapter
PEFT_PREFIX, ADAPTER_NAME = "base_model.model.", "default"


def merge_adapters(model: Exo2EgoForConditionalGeneration) -> int:
    """Adds the LoRA updates to the weights they adapt and removes the adapters; returns how many there were."""
    return _unwrap(model, merge=True)


def detach_adapters(model: Exo2EgoForConditionalGeneration) -> dict[str, Tensor]:
    """Removes the adapters without merging them and returns their tensors under peft's names."""
    tensors = {
        PEFT_PREFIX + name.replace(f".{ADAPTER_NAME}.", "."): parameter.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if ".lora_" in name
    }
    _unwrap(model, merge=False)
    return tensors


def _unwrap(model: Exo2EgoForConditionalGeneration, *, merge: bool) -> int:
    adapted = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    for name, module in adapted.items():
        if merge:
            module.merge()
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, module.base_layer)
    return len(adapted)


def write_adapter(
    folder: Path, options: LoraOptions, tensors: dict[str, Tensor], base: Exo2EgoForConditionalGeneration
) -> None:
    """Writes peft's two files, and which base model they belong to."""
    folder.mkdir(parents=True)
    config = lora_config(options)
    config.inference_mode = True
    config.save_pretrained(str(folder))
    save_file(tensors, str(folder / WEIGHTS), metadata={"format": "pt"})
    write_json(
        folder / BASE, {"identity": module_identity(base), "dtype": str(base.dtype), "lora": options.model_dump()}
    )


def load_adapter(model: Exo2EgoForConditionalGeneration, folder: Path) -> None:
    """Puts an adapter onto the model it was exported with.

    Raises `CheckpointError` for any other base model, or when the adapter is damaged: peft itself compares only shapes.
    """
    try:
        record = read_json(folder / BASE, "record of an adapter's base model")
        identity, dtype, options = record["identity"], record["dtype"], LoraOptions.model_validate(record["lora"])
    except (DataError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: is no adapter that scripts.export wrote: {error}") from error
    if module_identity(model) != identity:
        raise CheckpointError(
            f"{folder}: this adapter belongs to another base model: it was exported with weights {identity[:12]} in "
            f"{dtype}, the one given has {module_identity(model)[:12]} in {model.dtype}; load the model of the folder "
            "above it, in its own precision"
        )
    tensors = read_tensors(folder / WEIGHTS)
    inject_adapter_in_model(lora_config(options), model)
    own = {
        PEFT_PREFIX + name.replace(f".{ADAPTER_NAME}.", "."): parameter
        for name, parameter in model.named_parameters()
        if ".lora_" in name
    }
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if shapes != {name: parameter.shape for name, parameter in own.items()}:
        odd = sorted(own.keys() ^ tensors.keys())
        raise CheckpointError(
            f"{folder}: the adapter's tensors do not fit its own configuration: {len(own.keys() & tensors.keys())} of "
            f"{len(own)} found, {odd[:3]}; export it again"
        )
    for name, parameter in own.items():
        parameter.data = tensors[name].to(parameter.device)
    tell_loaded("adapter", folder, len(tensors), len(own))
