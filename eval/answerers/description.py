"""What a model is made of, in a few words for the tables of a report."""

from __future__ import annotations

from typing import Any

from eval.answerers.protocol import ModelDescription


def describe_parts(encoder: Any, language_model: Any) -> ModelDescription:
    """Returns type and sizes of a vision tower and a language model from their configurations of transformers."""
    return {"encoder": _sizes(encoder), "language_model": _sizes(language_model)}


def _sizes(config: Any) -> str | None:
    if config is None:
        return None
    layers = getattr(config, "num_hidden_layers", None) or getattr(config, "depth", None)
    # Qwen2-VL's tower calls the language model's width hidden_size
    width = getattr(config, "embed_dim", None) or getattr(config, "hidden_size", None)
    return f"{config.model_type} ({layers} layers, width {width})" if layers and width else str(config.model_type)
