"""Tiny Exo2Ego models with random weights, built from the same options as real ones."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from exo2ego.model.building import build_model
from exo2ego.model.modeling import Exo2EgoForConditionalGeneration
from exo2ego.model.options import ConnectorOptions, MapperOptions, ModelOptions, PartOptions
from exo2ego.model.parts import ModelParts
from exo2ego.model.small_language import train_tokenizer

NUM_FRAMES = 4
IMAGE_SIZE = 32
TOWER_WIDTH = 32
GRID_SIZE = 8  # the smallest that the ResNet mapper halves twice with its reflect padding
BLOCKS = {"intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
TOWER = {
    "model_type": "clip_vision_model",
    "hidden_size": TOWER_WIDTH,
    "image_size": IMAGE_SIZE,
    "patch_size": IMAGE_SIZE // GRID_SIZE,
    **BLOCKS,
}
LANGUAGE = {
    "model_type": "mistral",
    "vocab_size": 320,
    "hidden_size": 48,
    "num_key_value_heads": 1,
    "head_dim": 24,
    "sliding_window": None,
    **BLOCKS,
}
NARRATIONS = ["C picks up the red cup.", "C puts down the blue box.", "[INST] What does C do? [/INST]"]


@functools.cache
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Returns a byte-level tokenizer with Mistral's special tokens and `<video>`."""
    return train_tokenizer(NARRATIONS, 300)


def tiny_options(**changes: Any) -> ModelOptions:
    """Returns the options of a tiny model; keyword arguments replace fields."""
    fields: dict[str, Any] = {
        "vision_tower": PartOptions(architecture=TOWER),
        "language_model": PartOptions(architecture=LANGUAGE),
        "connector": ConnectorOptions(depth=1),
        "mapper": MapperOptions(width=8, num_blocks=1),
        "num_frames": NUM_FRAMES,
    }
    return ModelOptions(**(fields | changes))


def tiny_model(parts: ModelParts | None = None, seed: int = 0, **changes: Any) -> Exo2EgoForConditionalGeneration:
    """Returns a model in eval mode, with F only unless `parts` says otherwise."""
    parts = parts or ModelParts(mapper=True)
    return build_model(tiny_options(**changes), parts, tiny_tokenizer(), seed).eval()


STAGE2 = ModelParts(teacher=True, mapper=True, inverse=True)


def random_pixels(*leading: int, seed: int = 0) -> Tensor:
    """Returns pixels [*leading, T, 3, S, S]."""
    shape = (*leading, NUM_FRAMES, 3, IMAGE_SIZE, IMAGE_SIZE)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_ids(model: Exo2EgoForConditionalGeneration, view: str = "ego", clips: int = 2, num_text: int = 6) -> Tensor:
    """Returns ids [B, 1 + N + num_text]: BOS, the placeholders of `view`, text."""
    num_video = model.model.num_video_tokens(view)  # type: ignore[arg-type]
    begin = torch.full((clips, 1), tiny_tokenizer().bos_token_id)
    video = torch.full((clips, num_video), model.config.video_token_id)
    text = torch.randint(4, 260, (clips, num_text), generator=torch.Generator().manual_seed(1))
    return torch.cat((begin, video, text), dim=1)


def on_meta_device(build: Callable[[], nn.Module]) -> nn.Module:
    """Builds a module of real size without memory, to count its parameters."""
    with torch.device("meta"):
        return build()


def num_parameters_in_millions(module: nn.Module) -> float:
    """Returns the number of parameters, 1e6, to two digits."""
    return round(sum(parameter.numel() for parameter in module.parameters()) / 1e6, 2)
