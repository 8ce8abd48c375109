"""What decides the answers of a model, family by family of settings, and one hash of all: runs with two never mix.

Left out is what tells only where a model lies or who wrote it: a copied folder is the same model. Nor does it hold the
versions of libraries: a model is the same under another one, though its answers may differ in the last digits.
"""

from __future__ import annotations

import json
from typing import Any

from peft.tuners.lora import LoraLayer
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from exo2ego.model.identity import module_identity
from exo2ego.storage import hash_text

PROVENANCE = frozenset({"_name_or_path", "_commit_hash", "transformers_version"})
"""Keys of a configuration that change when a folder is copied or written again."""
SET_BY_A_CALL = frozenset({"padding", "truncation"})
"""Keys of a tokenizer's rules that the last call has left there; ours neither pad nor cut."""


def answerer_identity(model: PreTrainedModel, processor: ProcessorMixin, stop_ids: list[int]) -> str:
    """Returns the hash of everything below; `stop_ids` end a generated answer."""
    return hash_of(
        weights=module_identity(model),
        architecture=architecture_settings(model),
        adapters=adapter_settings(model),
        attention=attention_kernels(model),
        tokenizer=tokenizer_settings(processor.tokenizer),
        processor=processor_settings(processor),
        stop_ids=sorted(stop_ids),
    )


def hash_of(**settings: Any) -> str:
    """Returns a hash of settings by name."""
    return hash_text(json.dumps(settings, sort_keys=True, default=str))


def architecture_settings(model: PreTrainedModel) -> Any:
    """Returns the configuration that the weights are read with: activations, positions, norms, layers, their type."""
    return _without(PROVENANCE, model.config.to_dict())


def adapter_settings(model: PreTrainedModel) -> dict[str, Any]:
    """Returns by what every LoRA update is multiplied; the updates themselves are weights."""
    adapted = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    return {name: [module.scaling, module.active_adapters, module.disable_adapters] for name, module in adapted.items()}


def attention_kernels(model: PreTrainedModel) -> dict[str, str | None]:
    """Returns the attention implementation of every part: eager, sdpa or flash differ in the last digits."""
    parts = {name: module for name, module in model.named_modules() if isinstance(module, PreTrainedModel)}
    return {name: part.config._attn_implementation for name, part in parts.items()}


def tokenizer_settings(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Returns how a text becomes ids and ids a text: normalizer, merges, vocabulary, special tokens, template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    return {
        "class": type(tokenizer).__name__,
        "rules": {name: value for name, value in rules.items() if name not in SET_BY_A_CALL},
        "special_tokens": tokenizer.special_tokens_map,
        "cleans_up": getattr(tokenizer, "clean_up_tokenization_spaces", None),
        "chat_template": tokenizer.chat_template,
    }


def processor_settings(processor: ProcessorMixin) -> dict[str, Any]:
    """Returns what is done to pictures, how many tokens they take, and the template of the prompts."""
    settings = _without(PROVENANCE, processor.to_dict())
    return {"settings": settings, "chat_template": getattr(processor, "chat_template", None)}


def _without(keys: frozenset[str], value: Any) -> Any:
    """Returns a nested setting without some keys, at every depth."""
    if isinstance(value, dict):
        return {str(name): _without(keys, inner) for name, inner in value.items() if name not in keys}
    if isinstance(value, (list, tuple)):
        return [_without(keys, inner) for inner in value]
    return value
