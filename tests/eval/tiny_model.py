"""A tiny Exo2Ego model with random weights for the evaluator's tests."""

from __future__ import annotations

from exo2ego.data.processor import Exo2EgoProcessor
from exo2ego.model.building import build_model
from exo2ego.model.modeling import Exo2EgoForConditionalGeneration
from exo2ego.model.options import ConnectorOptions, MapperOptions, ModelOptions, PartOptions
from exo2ego.model.parts import ModelParts
from exo2ego.model.small_language import train_tokenizer
from exo2ego.train.assembly import build_processor

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
OPTIONS = ModelOptions(
    vision_tower=PartOptions(
        architecture={"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8, **SIZES}
    ),
    language_model=PartOptions(
        architecture={"model_type": "mistral", "vocab_size": 400, "num_key_value_heads": 2, "head_dim": 8, **SIZES}
    ),
    connector=ConnectorOptions(kind="linear"),
    mapper=MapperOptions(kind="fc"),
    num_frames=2,
)
NARRATIONS = [
    "C picks up the red cup with the left hand",
    "C pours",
    "C rotates the blue bottle on the tray with the right hand",
    "C opens the box.",
    "C pushes the white plate",
]


def tiny_model() -> tuple[Exo2EgoForConditionalGeneration, Exo2EgoProcessor]:
    """Returns a model with teacher, F and random weights, and its processor."""
    tokenizer = train_tokenizer([*NARRATIONS, "[INST] Which description? [/INST] (A) (B)"], 400)
    model = build_model(OPTIONS, ModelParts(teacher=True, mapper=True), tokenizer, seed=0)
    return model.eval(), build_processor(model, tokenizer, OPTIONS.aspect)
