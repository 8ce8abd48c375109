"""VideoLLaMA2's checkpoints under our names: the connector, and of a full release its tower and tuned language model.

A full release (VideoLLaMA2-7B-16F) holds 795 tensors in safetensors shards: 291 of Mistral, 391 of CLIP, 113 of the
STC connector. A `-Base` release holds the connector alone, in `mm_projector.bin`; its language model and tower are the
published ones, unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig

from exo2ego.errors import CheckpointError, ConfigError, DataError
from exo2ego.model.sources import PROJECTOR_FILE, PROJECTOR_PREFIX, SAFETENSORS, shard_of_tensor
from exo2ego.model.weights import read_pickled_tensors
from exo2ego.storage import read_json

TOWER_PREFIX = "model.vision_tower.vision_tower.vision_model."
# the releases name their tower and do not say its sizes
CLIP_LARGE_336 = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
KNOWN_TOWERS = {"openai/clip-vit-large-patch14-336": CLIP_LARGE_336}
# tensors of a full release that are no part of its language model
BESIDE_LANGUAGE_MODEL = ("model.vision_tower.", "model.mm_projector.")


def connector_weights(folder: Path) -> dict[str, Tensor]:
    """Returns the connector's tensors, under our names: VideoLLaMA2's without the prefix.

    Reads `mm_projector.bin` of a `-Base` release without unpickling code, or the safetensors shards of a full one.
    Raises `CheckpointError` when there is neither, or a file is damaged or holds something else than tensors.
    """
    projector = folder / PROJECTOR_FILE
    if projector.is_file():
        found = _without_prefix(read_pickled_tensors(projector), PROJECTOR_PREFIX)
    else:
        found = _of_shards(folder, PROJECTOR_PREFIX)
    if not found or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise CheckpointError(f"{folder}: no tensor starts with {PROJECTOR_PREFIX}, or it holds other things")
    return found


def tower_weights(folder: Path) -> dict[str, Tensor]:
    """Returns the vision tower's tensors of a full release under the names of transformers' CLIPVisionModel."""
    found = _of_shards(folder, TOWER_PREFIX)
    if not found:
        raise CheckpointError(f"{folder}: no tensor starts with {TOWER_PREFIX}; a -Base release has no vision tower")
    return found


def language_config(folder: Path) -> PretrainedConfig:
    """Returns the configuration of a release's language model: `videollama2_mistral` is a Mistral.

    Raises `ConfigError` for another kind of model, or a release without a language model.
    """
    values = _config(folder)
    model_type = str(values.pop("model_type", "")).rpartition("_")[2]
    if model_type not in CONFIG_MAPPING:
        raise ConfigError(
            f"{folder}: config.json has a language model of type `{model_type}`; expected mistral or qwen2"
        )
    if (folder / PROJECTOR_FILE).is_file():
        raise ConfigError(
            f"{folder}: a -Base release holds the connector alone and its language model is the published one: "
            "use language_model.from_pretrained, or the full release (VideoLLaMA2-7B-16F)"
        )
    config = AutoConfig.for_model(model_type)
    known = config.to_dict().keys() - {"dtype"}
    # the rope's base had a field of its own when the releases were made; transformers 5 still reads it
    config = AutoConfig.for_model(
        model_type, **{key: value for key, value in values.items() if key in known or key == "rope_theta"}
    )
    config.architectures = None
    return config


def tower_config(folder: Path) -> PretrainedConfig:
    """Returns the configuration of a release's tower, which its own names: a known one, or a folder of transformers."""
    name = str(_config(folder).get("mm_vision_tower"))
    if name in KNOWN_TOWERS:
        return AutoConfig.for_model(**KNOWN_TOWERS[name])
    if (Path(name) / "config.json").is_file():
        config = AutoConfig.from_pretrained(name)
        vision: PretrainedConfig = getattr(config, "vision_config", config)
        return vision
    raise ConfigError(
        f"{folder}: config.json names the vision tower `{name}`, whose sizes are not known here (only of "
        f"{', '.join(KNOWN_TOWERS)}); use vision_tower.from_pretrained"
    )


def _config(folder: Path) -> dict[str, Any]:
    try:
        return dict(read_json(folder / "config.json", "configuration of a VideoLLaMA2 release"))
    except (DataError, TypeError, ValueError) as error:
        raise ConfigError(f"{folder}: is no VideoLLaMA2 release: {error}") from error


def _of_shards(folder: Path, prefix: str) -> dict[str, Tensor]:
    """Returns the tensors of the shards whose names start with `prefix`, read from their places in the files."""
    if not (folder / f"{SAFETENSORS}.index.json").is_file():
        raise CheckpointError(
            f"{folder}: expected {PROJECTOR_FILE} or {SAFETENSORS}.index.json of a VideoLLaMA2 checkpoint"
        )
    shard_of = {name: shard for name, shard in shard_of_tensor(folder).items() if name.startswith(prefix)}
    tensors: dict[str, Tensor] = {}
    try:
        for shard in sorted(set(shard_of.values())):
            with safe_open(str(folder / shard), framework="pt") as stream:
                tensors |= {name: stream.get_tensor(name) for name in shard_of if shard_of[name] == shard}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder}: the weights cannot be read: {error}") from error
    return _without_prefix(tensors, prefix)


def _without_prefix(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
