"""Loading towers and language models from any source that a configuration can name, and telling how much was loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from exo2ego.errors import CheckpointError, ConfigError, DataError
from exo2ego.model import open_clip_tower, videollama2
from exo2ego.model.options import PartOptions
from exo2ego.model.sources import located, require_whole
from exo2ego.model.vision_tower import VisionTower, without_head
from exo2ego.model.weights import load_exactly, load_pretrained, tell_loaded
from exo2ego.storage import read_json

# what `without_head` replaces, under the names of published checkpoints
HEAD = re.compile(r"(vision_model\.|visual\.)?(post_layernorm|head|merger)\.")
PIXELS_FILE = "preprocessor_config.json"


def published_config(part: PartOptions, key: str, *, vision: bool) -> PretrainedConfig:
    """Returns the transformers configuration of a published tower or language model; `key` is the part's in the file.

    Raises `ConfigError` where the source is not there or is something else.
    """
    if part.open_clip is not None:
        return open_clip_tower.tower_config(part.open_clip, _checkpoint(part, key))
    if part.videollama2 is not None:
        folder = located(part.videollama2, f"{key}.videollama2", "config")
        return videollama2.tower_config(folder) if vision else videollama2.language_config(folder)
    folder = located(str(part.from_pretrained), f"{key}.from_pretrained", "config")
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(str(folder))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key}.from_pretrained: {folder}/config.json cannot be read: {error}") from error
    return _with_pixel_statistics(getattr(config, "vision_config", config), folder) if vision else config


def load_tower(
    part: PartOptions, kind: type[VisionTower], truncated: PretrainedConfig, attention: str, key: str
) -> PreTrainedModel:
    """Returns a published tower up to the used layer, in float32.

    Raises `CheckpointError` unless the file has exactly the tensors of the tower, and besides them only its other
    layers, its head, and what `kind.beside` names.
    """

    def is_unused(name: str) -> bool:
        return kind.is_unused(name, truncated) or HEAD.match(name) is not None

    title = key.removeprefix("model.").replace("_", " ")
    if part.from_pretrained is not None:
        folder = located(part.from_pretrained, f"{key}.from_pretrained")
        require_whole(folder)
        model = load_pretrained(
            kind.library_class,
            str(folder),
            part=title,
            is_unused=is_unused,
            config=truncated,
            attn_implementation=attention,
            dtype=torch.float32,
            **kind.load_options,
        )
        return without_head(model)
    if part.open_clip is not None:
        path = _checkpoint(part, key)
        tensors, left_out = open_clip_tower.tower_weights(path)
    else:
        path = located(str(part.videollama2), f"{key}.videollama2")
        require_whole(path)
        tensors, left_out = videollama2.tower_weights(path), []
    kept = {name: tensor for name, tensor in tensors.items() if not is_unused(name)}
    left_out += sorted(tensors.keys() - kept.keys())
    model = without_head(kind.from_config(truncated, attention))
    load_exactly(model, _named_as(model, kept), where=str(path))
    tell_loaded(title, path, len(kept), len(model.state_dict()), left_out)
    return model


def load_language_model(part: PartOptions, attention: str, key: str = "model.language_model") -> PreTrainedModel:
    """Returns a published language model in the precision it was published in.

    Raises `CheckpointError` unless the files have exactly its tensors (and VideoLLaMA2's, where they are of a release).
    """
    options: dict[str, Any] = {"attn_implementation": attention, "dtype": "auto"}
    if part.videollama2 is not None:
        folder = located(part.videollama2, f"{key}.videollama2")
        options["config"] = videollama2.language_config(folder)
        beside: tuple[str, ...] = videollama2.BESIDE_LANGUAGE_MODEL
    else:
        folder, beside = located(str(part.from_pretrained), f"{key}.from_pretrained"), ()
    require_whole(folder)
    return load_pretrained(
        AutoModelForCausalLM,
        str(folder),
        part="language model",
        is_unused=lambda name: name.startswith(beside),
        **options,
    )


def _checkpoint(part: PartOptions, key: str) -> Path:
    path = Path(str(part.checkpoint)).expanduser()
    if not path.is_file():
        raise ConfigError(f"{key}.checkpoint: {path} is no file; give the weights of {part.open_clip}")
    return path


def _named_as(model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors under the names of the installed transformers, which may put `vision_model.` before them."""
    prefix = "vision_model." if any(name.startswith("vision_model.") for name in model.state_dict()) else ""
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def _with_pixel_statistics(config: PretrainedConfig, folder: Path) -> PretrainedConfig:
    """Notes mean and standard deviation of the pixels where the folder says them."""
    if (folder / PIXELS_FILE).is_file():
        try:
            values = read_json(folder / PIXELS_FILE, "image processor of a tower")
            mean, std = values.get("image_mean"), values.get("image_std")
        except (DataError, AttributeError) as error:
            raise CheckpointError(f"{folder / PIXELS_FILE}: cannot be read: {error}") from error
        if mean and std:
            config.image_mean, config.image_std = list(mean), list(std)
    return config
