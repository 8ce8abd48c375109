"""Stages of the presets on random weights, made where they are needed: the real sizes on a GPU, small ones on a CPU."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

import exo2ego
from exo2ego.config import load_config
from exo2ego.data.batch import Batch
from exo2ego.model.building import build_model
from exo2ego.model.modeling import Exo2EgoForConditionalGeneration
from exo2ego.model.skeleton import published
from exo2ego.model.small_language import train_tokenizer
from exo2ego.train.prediction import make_trainable, skeleton_batch
from exo2ego.train.stage import Stage
from stages.stage1 import Stage1, Stage1Config
from stages.stage2 import Stage2, Stage2Config
from stages.stage3 import Stage3, Stage3Config

Size = Literal["paper", "small", "tiny"]
CONFIGS = Path(exo2ego.__file__).parents[1] / "stages" / "configs"
STAGES: dict[str, tuple[type[Stage[Any]], type[Any]]] = {
    "stage1": (Stage1, Stage1Config),
    "stage2": (Stage2, Stage2Config),
    "stage3": (Stage3, Stage3Config),
}
FIRST_TEXT_ID, LAST_TEXT_ID = 4, 250  # after the special tokens, within the smallest vocabulary


def _sizes(size: Size) -> dict[str, Any]:
    """Returns the model section's changes that put random weights in the place of published ones."""
    if size == "paper":
        vision = published("openai/clip-vit-large-patch14-336")["vision"]
        language = {**published("mistralai/Mistral-7B-Instruct-v0.2")["text"], "vocab_size": 32064}
        smaller: dict[str, Any] = {}
    else:
        layers, width, side, words = (24, 96, 112, 4096) if size == "small" else (3, 32, 32, 320)
        patch = 14 if size == "small" else 4  # 8 x 8 patches
        blocks = {"num_hidden_layers": layers, "num_attention_heads": 2}
        vision = {"model_type": "clip_vision_model", "hidden_size": width, "intermediate_size": 2 * width, **blocks}
        vision |= {"image_size": side, "patch_size": patch}
        blocks["num_hidden_layers"] = 4 if size == "small" else 2
        language = {"model_type": "mistral", "hidden_size": 2 * width, "intermediate_size": 4 * width, **blocks}
        language |= {"vocab_size": words, "num_key_value_heads": 1, "head_dim": width, "sliding_window": None}
        smaller = {"num_frames": 4, "connector": {"depth": 1}, "mapper": {"width": 16, "num_blocks": 2}}
    random_parts = {
        "vision_tower": {"from_pretrained": None, "architecture": vision},
        "language_model": {"from_pretrained": None, "architecture": language},
        "videollama2": None,
    }
    return {**random_parts, **smaller}


def random_stage(name: str, size: Size, preset: str, *overrides: str) -> Stage[Any]:
    """Returns a stage of stages/configs/`preset` whose model has random weights of one of the sizes."""
    stage_class, config_class = STAGES[name]
    changes = [f"model.{key}={json.dumps(value)}" for key, value in _sizes(size).items()]
    return stage_class(load_config(config_class, CONFIGS / preset / f"{name}.yaml", [*changes, *overrides]))


def build_on(stage: Stage[Any], device: torch.device) -> Exo2EgoForConditionalGeneration:
    """Returns the stage's model, its weights drawn on `device`: frozen ones in the stage's precision, else float32."""
    tokenizer = train_tokenizer(["C lifts the red cup."], 300)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if stage.config.precision == "bf16" else torch.float32)
    try:
        with device:
            model = build_model(stage.config.model, stage.parts, tokenizer, stage.config.seed)
    finally:
        torch.set_default_dtype(default)
    make_trainable(stage, model)
    return model


def random_batch(
    stage: Stage[Any],
    model: Exo2EgoForConditionalGeneration,
    *,
    num_clips: int,
    num_views: int = 1,
    text_tokens: int,
    target_tokens: int,
) -> Batch:
    """Returns a micro-batch of noise and random text of equal lengths, in the CPU's memory."""
    generator = torch.Generator().manual_seed(1)
    shapes = skeleton_batch(stage, model, num_clips, num_views, text_tokens, target_tokens)
    drawn: dict[str, Any] = {
        name: torch.randn(value.shape, generator=generator)
        for name, value in vars(shapes).items()
        if name in ("pixels", "exo_pixels") and value is not None
    }
    ids = shapes.input_ids
    text = torch.randint(FIRST_TEXT_ID, LAST_TEXT_ID, (num_clips, text_tokens - 1), generator=generator)
    ids[:, 0] = 1
    ids[:, -text.shape[1] :] = text
    labels = shapes.labels
    labels[:, -target_tokens:] = ids[:, -target_tokens:]
    return replace(shapes, **drawn)
