"""open_clip's vision transformers as transformers' CLIP or SigLIP towers: same hidden states, other tensor names.

What a checkpoint's architecture is, is read from the model that open_clip itself builds for its name (without memory),
not from its name: activation, norms and class token cannot be told from tensor names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PretrainedConfig

from exo2ego.console import console
from exo2ego.errors import CheckpointError, ConfigError, DataError
from exo2ego.model.weights import read_pickled_tensors, read_tensors
from exo2ego.storage import read_json

PREFIX = "visual."
OWN_CONFIG = "open_clip_config.json"
"""What a release on the hub says of itself, beside its weights."""
CONVERTIBLE = (
    "plain vision transformers with pre-norm (ViT-B-32, ViT-L-14-336, ViT-H-14, …, with or without -quickgelu, CoCa's) "
    "and timm's plain ones (ViT-*-SigLIP, ViT-*-SigLIP2, MobileCLIP2-L-14)"
)
# tensors of the tower that stand after the used layer: pooling, final norm, projection
AFTER_BLOCKS = re.compile(r"proj|(ln_post|attn_pool|trunk\.(norm|attn_pool|head|fc_norm)|head)\..*")
BLOCK = r"(?:transformer\.resblocks|trunk\.blocks)\.(\d+)\."
RENAMED = (
    (r"class_embedding|trunk\.cls_token", "embeddings.class_embedding"),
    (r"positional_embedding|trunk\.pos_embed", "embeddings.position_embedding.weight"),
    (r"(?:conv1|trunk\.patch_embed\.proj)\.(weight|bias)", r"embeddings.patch_embedding.\1"),
    (r"(?:ln_pre|trunk\.norm_pre)\.(weight|bias)", r"pre_layrnorm.\1"),
    (BLOCK + r"(?:ln_|norm)([12])\.(weight|bias)", r"encoder.layers.\1.layer_norm\2.\3"),
    (BLOCK + r"attn\.(?:in_proj_|qkv\.)(weight|bias)", r"encoder.layers.\1.qkv.\2"),
    (BLOCK + r"attn\.(?:out_proj|proj)\.(weight|bias)", r"encoder.layers.\1.self_attn.out_proj.\2"),
    (BLOCK + r"mlp\.(?:c_fc|fc1)\.(weight|bias)", r"encoder.layers.\1.mlp.fc1.\2"),
    (BLOCK + r"mlp\.(?:c_proj|fc2)\.(weight|bias)", r"encoder.layers.\1.mlp.fc2.\2"),
)


def tower_config(name: str, checkpoint: Path) -> PretrainedConfig:
    """Returns transformers' configuration of an open_clip model's tower, with the checkpoint's own pixel statistics.

    Raises `ConfigError` for an unknown name, an architecture without a counterpart in transformers, or a name that
    contradicts the `open_clip_config.json` beside the checkpoint.
    """
    values = _model_values(name)
    published = _published_values(checkpoint)
    config = _config_of(name, _empty_tower(values))
    if "model_cfg" in published:
        _require_same_tower(name, values, published["model_cfg"], checkpoint)
    elif config.hidden_act == "gelu":
        _require_plain_gelu(name, checkpoint)
    mean, std = _pixel_statistics(name, published.get("preprocess_cfg"), checkpoint)
    config.image_mean, config.image_std = mean, std
    return config


def tower_weights(checkpoint: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Returns (tensors of the blocks and embeddings under transformers' names, names of what was left out).

    Reads safetensors, or a `.pt` or `.bin` file without running code in it. Raises `CheckpointError` for a tensor of
    the tower that has no place in transformers' class.
    """
    tensors = _read(checkpoint)
    visual = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
    if not visual:
        raise CheckpointError(f"{checkpoint}: no tensor starts with {PREFIX}: is it a checkpoint of open_clip?")
    left_out = sorted("text" for name in tensors if not name.startswith(PREFIX))
    converted: dict[str, Tensor] = {}
    strange = []
    for name, tensor in visual.items():
        if AFTER_BLOCKS.fullmatch(name):
            left_out.append(name.removeprefix("trunk."))
        elif (renamed := _renamed(name)) is None:
            strange.append(name)
        else:
            converted |= _split(renamed, tensor)
    if strange:
        raise CheckpointError(
            f"{checkpoint}: {len(strange)} tensors of the tower have no place in transformers' classes {strange[:3]}; "
            f"can be converted: {CONVERTIBLE}"
        )
    return converted, left_out


def _renamed(name: str) -> str | None:
    for pattern, replacement in RENAMED:
        if found := re.fullmatch(pattern, name):
            return found.expand(replacement)
    return None


def _split(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Cuts the joined projection into query, key and value, and drops leading dimensions of 1 of the embeddings."""
    if ".qkv." in name:
        parts = tensor.chunk(3)
        return {
            name.replace("qkv", f"self_attn.{letter}_proj"): part for letter, part in zip("qkv", parts, strict=True)
        }
    if name == "embeddings.class_embedding":
        return {name: tensor.flatten()}
    if name == "embeddings.position_embedding.weight":
        return {name: tensor.flatten(0, -2)}
    return {name: tensor}


def _read(checkpoint: Path) -> dict[str, Tensor]:
    if checkpoint.suffix == ".safetensors":
        tensors: Mapping[str, Any] = read_tensors(checkpoint)
    else:
        tensors = read_pickled_tensors(checkpoint)
        tensors = tensors.get("state_dict", tensors)  # a checkpoint of open_clip's own training
    return {name.removeprefix("module."): value for name, value in tensors.items() if isinstance(value, Tensor)}


def _model_values(name: str) -> dict[str, Any]:
    try:
        import open_clip
    except ImportError as error:
        raise ConfigError(f"vision_tower.open_clip={name} needs open_clip: pip install 'exo2ego[openclip]'") from error
    values = open_clip.get_model_config(name)
    if values is None:
        known = ", ".join(other for other in open_clip.list_models() if other.startswith(name[:5])) or "none like it"
        raise ConfigError(f"vision_tower.open_clip: open_clip has no model {name}; it has {known}")
    return dict(values)


def _published_values(checkpoint: Path) -> dict[str, Any]:
    path = checkpoint.with_name(OWN_CONFIG)
    try:
        return dict(read_json(path, "open_clip configuration")) if path.is_file() else {}
    except (DataError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def _require_plain_gelu(name: str, checkpoint: Path) -> None:
    """Raises `ConfigError` where all releases of a model were trained with QuickGELU and its name does not say so.

    Where only some were, the console says which: no tensor tells.
    """
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    quick = [tag for tag in tags if open_clip.get_pretrained_cfg(name, tag).get("quick_gelu")]
    if quick and len(quick) == len(tags):
        raise ConfigError(
            f"vision_tower.open_clip: the releases of {name} ({', '.join(quick)}) were trained with QuickGELU: name "
            f"{name}-quickgelu, or put the checkpoint's {OWN_CONFIG} beside {checkpoint}"
        )
    if quick:
        console.print(
            f"{name} is taken with GELU; the releases {', '.join(quick)} need {name}-quickgelu", style="yellow"
        )


def _require_same_tower(name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any], checkpoint: Path) -> None:
    """Raises `ConfigError` where the checkpoint's own configuration describes another tower than the model name."""
    described = [
        {"quick_gelu": bool(values.get("quick_gelu"))} | dict(values.get("vision_cfg", {})) for values in (ours, theirs)
    ]
    different = [
        f"{key}: {described[1].get(key)!r} there, {described[0].get(key)!r} for {name}"
        for key in sorted(described[0].keys() | described[1].keys())
        if described[0].get(key) != described[1].get(key)
    ]
    if different:
        raise ConfigError(
            f"vision_tower.open_clip: {checkpoint.with_name(OWN_CONFIG)} describes another tower than {name}: "
            f"{'; '.join(different)}; name the model that the checkpoint is of"
        )


def _empty_tower(values: Mapping[str, Any]) -> nn.Module:
    from open_clip.model import _build_vision_tower  # the public way would build, or even fetch, the text tower too

    with torch.device("meta"):
        tower: nn.Module = _build_vision_tower(
            values["embed_dim"], dict(values["vision_cfg"]), bool(values.get("quick_gelu"))
        )
    return tower


def _config_of(name: str, tower: Any) -> PretrainedConfig:
    """Reads sizes, activation and norms off the modules; raises `ConfigError` for what transformers cannot express."""
    trunk = getattr(tower, "trunk", tower)
    is_timm = trunk is not tower
    try:
        blocks = trunk.blocks if is_timm else trunk.transformer.resblocks
        block, patches = blocks[0], trunk.patch_embed.proj if is_timm else trunk.conv1
        pre_norm = trunk.norm_pre if is_timm else trunk.ln_pre
        norm, mlp = (block.norm1, block.mlp) if is_timm else (block.ln_1, block.mlp)
        first, activation = (mlp.fc1, mlp.act) if is_timm else (mlp.c_fc, mlp.gelu)
        has_class_token = "cls_token" in trunk._parameters or "class_embedding" in trunk._parameters
        values = {
            "hidden_size": patches.out_channels,
            "intermediate_size": first.out_features,
            "num_hidden_layers": len(blocks),
            "num_attention_heads": block.attn.num_heads,
            "image_size": _side(trunk.patch_embed.img_size if is_timm else trunk.image_size),
            "patch_size": _side(patches.kernel_size),
            "hidden_act": _activation(activation),
            "layer_norm_eps": norm.eps,
        }
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise ConfigError(f"{_refusal(name, type(trunk).__name__)} ({error})") from error
    is_clip = has_class_token and isinstance(pre_norm, nn.LayerNorm) and patches.bias is None
    is_siglip = not has_class_token and isinstance(pre_norm, nn.Identity) and patches.bias is not None
    if not (is_clip or is_siglip) or not _is_plain(trunk, blocks):
        raise ConfigError(_refusal(name, f"{type(trunk).__name__} with other norms, tokens or blocks"))
    return AutoConfig.for_model("clip_vision_model" if is_clip else "siglip_vision_model", **values)


def _is_plain(trunk: nn.Module, blocks: nn.ModuleList) -> bool:
    """Says whether the tower holds nothing that the renamed tensors would leave out or another formula would use."""
    names = [name for name in trunk.state_dict() if not AFTER_BLOCKS.fullmatch(name)]
    known = all(
        _renamed(name) or _renamed(f"trunk.{name}") or AFTER_BLOCKS.fullmatch(f"trunk.{name}") for name in names
    )
    kinds = {type(block).__name__ for block in blocks}
    return known and kinds <= {"ResidualAttentionBlock", "Block"} and type(trunk).__name__ == "VisionTransformer"


def _activation(module: nn.Module) -> str:
    if type(module).__name__ == "QuickGELU":
        return "quick_gelu"
    if isinstance(module, nn.GELU):
        return "gelu" if module.approximate == "none" else "gelu_pytorch_tanh"
    if type(module).__name__ == "GELUTanh":
        return "gelu_pytorch_tanh"
    raise ValueError(f"activation {type(module).__name__}")


def _side(size: Any) -> int:
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise ValueError(f"pictures or patches of {size} are not square")
    return int(sides.pop())


def _refusal(name: str, found: str) -> str:
    return f"vision_tower.open_clip: {name} is a {found}, which cannot be converted; can be: {CONVERTIBLE}"


def _pixel_statistics(
    name: str, preprocess: Mapping[str, Any] | None, checkpoint: Path
) -> tuple[list[float], list[float]]:
    """Returns mean and standard deviation: of the checkpoint's own configuration, or of all releases of the model.

    Raises `ConfigError` where the releases differ and the checkpoint does not say which it is.
    """
    import open_clip

    if preprocess is not None and preprocess.get("mean") and preprocess.get("std"):
        return list(preprocess["mean"]), list(preprocess["std"])
    tags = open_clip.list_pretrained_tags_by_model(name)
    releases = [open_clip.get_pretrained_cfg(name, tag) for tag in tags]
    known = {(tuple(release["mean"]), tuple(release["std"])) for release in releases}
    if len(known) > 1:
        raise ConfigError(
            f"vision_tower.open_clip: releases of {name} differ in their pixel statistics; put the release's "
            f"{OWN_CONFIG} beside {checkpoint}"
        )
    default = (tuple(open_clip.OPENAI_DATASET_MEAN), tuple(open_clip.OPENAI_DATASET_STD))
    mean, std = next(iter(known), default)
    return list(mean), list(std)
