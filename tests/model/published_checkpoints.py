"""Tiny checkpoints with exactly the tensor names and file layout of the published ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, CLIPConfig, CLIPModel

from exo2ego.model.connector import build_connector
from tests.tiny_models import LANGUAGE, TOWER, TOWER_WIDTH, tiny_tokenizer

TEXT_TOWER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 40,
}
NORMS = ("input_layernorm", "post_attention_layernorm")
ATTENTION = tuple(f"self_attn.{letter}_proj" for letter in "qkvo")
FEED_FORWARD = tuple(f"mlp.{name}_proj" for name in ("gate", "up", "down"))
CLIP_LAYERS = ("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj")
CLIP_LAYERS += ("layer_norm1", "mlp.fc1", "mlp.fc2", "layer_norm2")
TOWER_PREFIX = "model.vision_tower.vision_tower.vision_model."
PROJECTOR_PREFIX = "model.mm_projector."


def mistral_names(num_layers: int) -> list[str]:
    """Returns the names in Mistral-7B-Instruct-v0.2's files, by rule: 291 for 32 layers."""
    layers = [
        f"model.layers.{layer}.{name}.weight"
        for layer in range(num_layers)
        for name in (*NORMS, *ATTENTION, *FEED_FORWARD)
    ]
    return ["model.embed_tokens.weight", *layers, "model.norm.weight", "lm_head.weight"]


def clip_vision_names(num_layers: int) -> list[str]:
    """Returns the names of a CLIP vision tower inside `vision_model.`, by rule: 391 for 24 layers."""
    layers = [
        f"encoder.layers.{layer}.{name}.{tensor}"
        for layer in range(num_layers)
        for name in CLIP_LAYERS
        for tensor in ("weight", "bias")
    ]
    around = [f"{norm}.{tensor}" for norm in ("pre_layrnorm", "post_layernorm") for tensor in ("weight", "bias")]
    embeddings = ["class_embedding", "patch_embedding.weight", "position_embedding.weight"]
    return [f"embeddings.{name}" for name in embeddings] + layers + around


def connector_names(depth: int) -> list[str]:
    """Returns the names of VideoLLaMA2's STC connector without prefix, by rule: 113 for 4 blocks a stage."""
    blocks = [f"{stage}.b{block}" for stage in ("s1", "s2") for block in range(1, depth + 1)]
    of_conv = ("conv.weight", "bn.weight", "bn.bias")
    return [
        *(f"{block}.conv{number}.{tensor}" for block in blocks for number in (1, 2, 3) for tensor in of_conv),
        *(f"{block}.se.fc{number}.{tensor}" for block in blocks for number in (1, 2) for tensor in ("weight", "bias")),
        *(f"s1.b1.downsample.{tensor}" for tensor in of_conv),
        *(f"{layer}.{tensor}" for layer in ("sampler.0", "readout.0", "readout.2") for tensor in ("weight", "bias")),
    ]


def videollama2_names(num_layers: int, num_tower_layers: int, depth: int) -> list[str]:
    """Returns the names in a full VideoLLaMA2 release: 795 for VideoLLaMA2-7B-16F."""
    return [
        *mistral_names(num_layers),
        *(TOWER_PREFIX + name for name in clip_vision_names(num_tower_layers)),
        *(PROJECTOR_PREFIX + name for name in connector_names(depth)),
    ]


def index_text(names: Iterable[str], num_shards: int, total_size: int) -> str:
    """Returns an index file as transformers writes it; which shard a tensor is in does not change its length."""
    shard = f"model-00001-of-{num_shards:05d}.safetensors"
    index = {"metadata": {"total_size": total_size}, "weight_map": dict.fromkeys(names, shard)}
    return json.dumps(index, indent=2, sort_keys=True) + "\n"


def write_shards(folder: Path, tensors: Mapping[str, Tensor], num_shards: int) -> None:
    """Writes safetensors shards and their index, the tensors in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    shard_of = {
        name: f"model-{number % num_shards + 1:05d}-of-{num_shards:05d}.safetensors"
        for number, name in enumerate(tensors)
    }
    for shard in sorted(set(shard_of.values())):
        held = {name: tensor.contiguous() for name, tensor in tensors.items() if shard_of[name] == shard}
        save_file(held, folder / shard, metadata={"format": "pt"})
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": shard_of}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def mistral_tensors(seed: int = 3) -> dict[str, Tensor]:
    """Returns a tiny Mistral's weights in bfloat16 under the published names."""
    torch.manual_seed(seed)
    values = {**LANGUAGE, "vocab_size": len(tiny_tokenizer()) - 1}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values)).bfloat16()
    tensors = dict(model.state_dict())
    assert sorted(tensors) == sorted(mistral_names(LANGUAGE["num_hidden_layers"]))
    return tensors


def language_values(**changes: Any) -> dict[str, Any]:
    """Returns config.json of the tiny Mistral as of 2024: rope_theta, torch_dtype."""
    values = {**LANGUAGE, "vocab_size": len(tiny_tokenizer()) - 1, "rope_theta": 1000000.0, "torch_dtype": "bfloat16"}
    return {**values, "architectures": ["MistralForCausalLM"], **changes}


def write_mistral(folder: Path, num_shards: int = 3) -> dict[str, Tensor]:
    """Writes a tiny Mistral-7B-Instruct-v0.2 with tokenizer; returns its tensors."""
    tensors = mistral_tensors()
    write_shards(folder, tensors, num_shards)
    (folder / "config.json").write_text(json.dumps(language_values()))
    tiny_tokenizer().save_pretrained(folder)
    return tensors


def clip_tensors(seed: int = 4) -> dict[str, Tensor]:
    """Returns a tiny full CLIP's weights in float32: vision and text tower, projections, temperature."""
    torch.manual_seed(seed)
    vision = {key: value for key, value in TOWER.items() if key != "model_type"}
    config = CLIPConfig(vision_config=vision, text_config=TEXT_TOWER, projection_dim=16)
    tensors = {name: tensor.clone() for name, tensor in CLIPModel(config).state_dict().items()}
    in_tower = {name.removeprefix("vision_model.") for name in tensors if name.startswith("vision_model.")}
    assert in_tower == set(clip_vision_names(TOWER["num_hidden_layers"]))
    return tensors


def write_clip(folder: Path, *, pickled: bool = False) -> dict[str, Tensor]:
    """Writes a tiny openai/clip-vit-large-patch14-336; its one published form is a pickle with index buffers."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = clip_tensors()
    vision = {**TOWER, "model_type": "clip_vision_model"}
    text = {**TEXT_TOWER, "model_type": "clip_text_model"}
    config = {"model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": 16}
    (folder / "config.json").write_text(json.dumps({**config, "vision_config": vision, "text_config": text}))
    if pickled:
        num_positions = tensors["vision_model.embeddings.position_embedding.weight"].shape[0]
        buffers = {"vision_model.embeddings.position_ids": torch.arange(num_positions)[None]}
        torch.save({**tensors, **buffers}, folder / "pytorch_model.bin")
    else:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return tensors


def projector_tensors(depth: int = 1) -> dict[str, Tensor]:
    """Returns a tiny connector's weights in bfloat16 under the projector's prefix."""
    torch.manual_seed(7)
    connector = build_connector("stc", TOWER_WIDTH, LANGUAGE["hidden_size"], depth)
    return {PROJECTOR_PREFIX + name: tensor.bfloat16() for name, tensor in connector.state_dict().items()}


def write_videollama2_base(folder: Path, tensors: Mapping[str, object] | None = None) -> Path:
    """Writes a `-Base` release."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(dict(projector_tensors() if tensors is None else tensors), folder / "mm_projector.bin")
    return folder


def write_videollama2(folder: Path, tower_folder: Path, num_shards: int = 4) -> dict[str, Tensor]:
    """Writes a full release, its tower named by a folder of transformers; returns its tensors."""
    write_clip(tower_folder)
    tower = {name.removeprefix("vision_model."): tensor for name, tensor in clip_tensors(seed=5).items()}
    kept = clip_vision_names(TOWER["num_hidden_layers"])
    tensors = {
        **mistral_tensors(seed=6),
        **{TOWER_PREFIX + name: tower[name].bfloat16() for name in kept},
        **projector_tensors(),
    }
    assert sorted(tensors) == sorted(videollama2_names(LANGUAGE["num_hidden_layers"], TOWER["num_hidden_layers"], 1))
    write_shards(folder, tensors, num_shards)
    values = language_values(
        model_type="videollama2_mistral",
        architectures=["Videollama2MistralForCausalLM"],
        mm_vision_tower=str(tower_folder),
        mm_projector_type="stc_connector",
        mm_vision_select_layer=-2,
        num_frames=16,
    )
    (folder / "config.json").write_text(json.dumps(values))
    tiny_tokenizer().save_pretrained(folder)
    return tensors
