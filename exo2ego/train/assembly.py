"""From a configuration and a parent checkpoint to a model ready for a stage, or ready to answer."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from exo2ego.data.pixels import PIXEL_STATISTICS, AspectMode
from exo2ego.data.processor import Exo2EgoProcessor
from exo2ego.errors import CheckpointError
from exo2ego.model.building import build_model, build_tokenizer
from exo2ego.model.modeling import Exo2EgoForConditionalGeneration
from exo2ego.model.options import ModelOptions
from exo2ego.model.parts import ModelParts
from exo2ego.model.vision_tower import tower_class, tower_geometry
from exo2ego.model.weights import tell_loaded
from exo2ego.train.checkpoint import Checkpoint, checkpoint_chain
from exo2ego.train.parameters import first_match

# what may be left behind when a stage has no such part: the teacher and G after stage 2 (A19)
TRAINING_ONLY = ("model.teacher_tower.*", "model.mapper_g.*", "model.connector_exo.*")
# options that may still change while no mapper has been trained
UNTRAINED_WITHOUT_MAPPER = ("mapper", "fusion", "fusion_order", "view_embedding")


def assemble(
    options: ModelOptions, parts: ModelParts, parent: Checkpoint | None, seed: int
) -> tuple[Exo2EgoForConditionalGeneration, PreTrainedTokenizerBase]:
    """Builds the model from base weights and lays the trained tensors of the whole chain of parents over it.

    Raises `CheckpointError` when the architecture differs from the parent's or a trained tensor has no place.
    """
    tokenizer = build_tokenizer(options)
    if parent is not None:
        require_same_architecture(options, parent)
    model = build_model(options, parts, tokenizer, seed)
    chain = checkpoint_chain(parent) if parent is not None else []
    loaded: set[str] = set()
    for checkpoint in chain:
        loaded |= load_weights(model, checkpoint)
    _start_fresh_parts(model, options, loaded)
    return model, tokenizer


def load_weights(model: Exo2EgoForConditionalGeneration, checkpoint: Checkpoint) -> set[str]:
    """Copies what a checkpoint's stage trained into the model and returns the names; raises `CheckpointError`.

    Every parameter of the model that its freeze table says it trained must be there.
    """
    require_same_base(model, checkpoint)
    tensors = checkpoint.tensors()
    loaded = load_trained(model, tensors, where=str(checkpoint.path))
    trained = {row["pattern"]: row["learning_rate"] is not None for row in checkpoint.record["freeze_table"]}
    owners = {name: first_match(name, trained) for name, _ in model.named_parameters()}
    missing = [name for name, pattern in owners.items() if pattern and trained[pattern] and name not in loaded]
    if missing:
        raise CheckpointError(
            f"{checkpoint.path}: {len(missing)} tensors that {checkpoint.stage} trains are not in it {missing[:3]}; "
            "was it written by another version?"
        )
    left_out = [name for name in tensors if _is_training_only(name) and name not in loaded]
    tell_loaded(checkpoint.stage, checkpoint.path, len(loaded), len(tensors) - len(left_out), left_out)
    return loaded


def require_same_base(model: Exo2EgoForConditionalGeneration, checkpoint: Checkpoint) -> None:
    """Raises `CheckpointError` naming the published parts that hold other weights than when the checkpoint was made.

    A checkpoint holds what its stage trained; over another base it would be another model (an adapter above all).
    """
    then, now = checkpoint.record.get("base_weights", {}), model.config.base_weights
    changed = [part.replace("_", " ") for part in then if part in now and now[part] != then[part]]
    if changed:
        raise CheckpointError(
            f"{checkpoint.path} was trained on another {' and another '.join(changed)}: the configured folder holds "
            "other weights than then; name or put back the former ones, or start again from the first stage"
        )


def load_trained(model: Exo2EgoForConditionalGeneration, tensors: Mapping[str, Tensor], where: str) -> set[str]:
    """Copies a checkpoint's trained tensors into the model and returns their names; nothing is loaded on a fault."""
    own = dict(model.named_parameters())
    renamed = {_own_name(name, own): tensor for name, tensor in tensors.items()}
    absent = {name for name in renamed if name not in own and _is_training_only(name)}
    unknown = sorted(name for name in renamed if name not in own and name not in absent)
    misshapen = [
        f"{name}: file {tuple(tensor.shape)}, model {tuple(own[name].shape)}"
        for name, tensor in sorted(renamed.items())
        if name in own and tensor.shape != own[name].shape
    ]
    if unknown or misshapen:
        raise CheckpointError(
            f"{where}: {len(unknown)} tensors have no place in the model {unknown[:3]}, {len(misshapen)} have another "
            f"shape {misshapen[:3]}; nothing was loaded: was it trained with another configuration?"
        )
    for name in renamed.keys() & own.keys():
        own[name].data.copy_(renamed[name])
    return set(renamed) & own.keys()


def _own_name(name: str, own: Mapping[str, Any]) -> str:
    """Adapters move a wrapped layer's weight to `base_layer`; a tensor saved before that is still the same weight."""
    if name in own:
        return name
    wrapped = re.sub(r"\.(weight|bias)$", r".base_layer.\1", name)
    return wrapped if wrapped in own else name


def _is_training_only(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in TRAINING_ONLY)


def _start_fresh_parts(model: Exo2EgoForConditionalGeneration, options: ModelOptions, loaded: set[str]) -> None:
    """Starts what no checkpoint has trained yet of the exo branch: as the ego branch, where the options say so."""
    inner = model.model
    has_teacher = any(name.startswith("model.teacher_tower.") for name in loaded)
    if inner.teacher_tower is not None and not has_teacher and options.teacher_init == "ego":
        inner.teacher_tower.load_state_dict(inner.vision_tower.state_dict())
    has_connector = any(name.startswith("model.connector_exo.") for name in loaded)
    alike = inner.exo_geometry.width == inner.ego_geometry.width
    if inner.connector_exo is not None and not has_connector and options.videollama2 is None and alike:
        inner.connector_exo.load_state_dict(inner.connector.state_dict())


def require_same_architecture(options: ModelOptions, parent: Checkpoint) -> None:
    """Raises `CheckpointError` naming every model option that differs from the parent's."""
    ours = recorded_options(options)
    theirs = recorded_options(ModelOptions.model_validate(parent.record["model"]))  # with later options' defaults
    for place in places_of(parent.record.get("base_weights", {})):
        for values in (ours, theirs):
            _forget(values, place.split(".")[1:])
    free = ("attention", *(() if parent.record["parts"]["mapper"] else UNTRAINED_WITHOUT_MAPPER))
    different = [
        f"model.{key}: {theirs.get(key)!r} there, {ours[key]!r} here"
        for key in ours
        if key not in free and theirs.get(key) != ours[key]
    ]
    if different:
        raise CheckpointError(
            f"{parent.path} was trained with another architecture:\n  " + "\n  ".join(different) + "\n"
            "  use the same `model` section in every stage of a run"
        )


def places_of(base_weights: Mapping[str, str]) -> list[str]:
    """Returns the options that say where weights lie whose content a record holds (`require_same_base` compares it)."""
    places = []
    for part in base_weights:
        keys = [f"{part}.{key}" for key in ("from_pretrained", "videollama2", "checkpoint")]
        places += ["videollama2"] if part == "connector" else keys
    return [f"model.{place}" for place in places]


def _forget(values: dict[str, Any], place: Sequence[str]) -> None:
    """Replaces the path at `place` by a mark; that there is one at all still counts for the connector."""
    *parts, key = place
    for part in parts:
        values = values.get(part) or {}
    if values.get(key) is not None or parts:
        values[key] = "compared by its content"


def recorded_options(options: ModelOptions) -> dict[str, Any]:
    """Returns the model options with local paths made absolute, so that a record means the same from any folder."""

    def absolute(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: absolute(inner) for key, inner in value.items()}
        if isinstance(value, str) and "/" in value and Path(value).exists():
            return str(Path(value).resolve())
        return value

    recorded: dict[str, Any] = absolute(options.model_dump(mode="json"))
    return recorded


def build_processor(
    model: Exo2EgoForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, aspect: AspectMode
) -> Exo2EgoProcessor:
    """Returns the processor that fits the model: its frames, picture size, and visual tokens per view."""
    inner = model.model
    views = ["ego_only"] + (["ego"] if inner.mapper_f is not None else [])
    views += ["exo"] if inner.teacher_tower is not None else []
    ego, exo = _pictures(model.config.vision_config), None
    if model.config.teacher_config is not None:
        exo = _pictures(model.config.teacher_config)
    return Exo2EgoProcessor(
        tokenizer,
        num_video_tokens={view: inner.num_video_tokens(view) for view in views},  # type: ignore[arg-type]
        num_frames=model.config.num_frames,
        **ego,
        aspect=aspect,
        default_view=model.config.default_view,
        exo_pictures=exo if inner.teacher_tower is not None and exo != ego else None,
    )


def _pictures(config: PretrainedConfig) -> dict[str, Any]:
    """Returns the processor's settings that a tower decides; its checkpoint's pixel statistics before its family's."""
    geometry = tower_geometry(config)
    mean, std = PIXEL_STATISTICS[tower_class(config).pixel_statistics(config)]
    mean, std = tuple(getattr(config, "image_mean", mean)), tuple(getattr(config, "image_std", std))
    return {
        "image_size": geometry.image_size,
        "patch_size": geometry.patch_size,
        "image_mean": mean,
        "image_std": std,
    }
