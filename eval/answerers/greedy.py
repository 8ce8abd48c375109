"""Greedy answers by nothing but the model's probabilities."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Returns the ids that end an answer: those that the release names, or else the tokenizer's end token."""
    named = model.generation_config.eos_token_id
    if named is None:
        named = tokenizer.eos_token_id
    return named if isinstance(named, list) else [int(named)]


def greedy_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    inputs: dict[str, Any],
    *,
    max_new_tokens: int,
    suppressed: list[int] | None = None,
) -> str:
    """Returns what the model says after the ids [1, S] of `inputs`.

    What a release's generation_config.json asks for is laid aside, not overridden: transformers fills every setting
    that is not given from there (penalties, forbidden and forced tokens, beams, guidance).
    """
    ends = stop_ids(model, tokenizer)
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0],
        suppress_tokens=suppressed,
    )
    released, model.generation_config = model.generation_config, settings
    try:
        output: Tensor = model.generate(**inputs, generation_config=settings)
    finally:
        model.generation_config = released
    text: str = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return text
