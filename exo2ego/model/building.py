"""Building a model from its options: published weights or random ones, tokenizer with `<video>`, LoRA adapters."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from exo2ego.errors import CheckpointError, ConfigError
from exo2ego.model.configuration import Exo2EgoConfig
from exo2ego.model.modeling import Exo2EgoForConditionalGeneration, PretrainedParts
from exo2ego.model.options import ModelOptions, PartOptions
from exo2ego.model.parts import LoraOptions, ModelParts
from exo2ego.model.vision_tower import truncated_config
from exo2ego.model.weights import connector_weights_of_videollama2, load_exactly

VIDEO_TOKEN = "<video>"  # noqa: S105 - a token of the language model's vocabulary
VOCABULARY_MULTIPLE = 64

# every linear layer of the language model's blocks, and of nothing else: CLIP has q_proj, k_proj, v_proj too
LORA_TARGETS = r".*language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"

# weights of a published tower that a truncated one does not have
UNUSED_TOWER_WEIGHTS = re.compile(r"(text_model|.*\blayers\.\d+\.|.*post_layernorm|.*head\.|logit_|.*_projection)")


def build_tokenizer(options: ModelOptions) -> PreTrainedTokenizerBase:
    """Loads the language model's tokenizer and adds `<video>` and a padding token where they are missing."""
    source = options.tokenizer or options.language_model.from_pretrained
    if source is None:
        raise ConfigError("model.tokenizer: a language model with random weights needs the folder of a tokenizer")
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(_existing(source, "model.tokenizer"))
    if VIDEO_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_tokens([VIDEO_TOKEN], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def build_model(
    options: ModelOptions, parts: ModelParts, tokenizer: PreTrainedTokenizerBase, seed: int
) -> Exo2EgoForConditionalGeneration:
    """Builds the model with its base weights; what has no published weights is drawn from `seed`.

    Raises `CheckpointError` when published weights do not fill a part exactly.
    """
    torch.manual_seed(seed)
    vision_config = part_config(options.vision_tower, vision=True)
    teacher_options = options.teacher_tower or options.vision_tower
    language_model, lm_head = _language_model(options, len(tokenizer))
    config = build_config(options, parts, tokenizer, vision_config, language_model.config)
    pretrained = PretrainedParts(
        vision_tower=_tower(options.vision_tower, vision_config, options),
        teacher_tower=_tower(teacher_options, config.teacher_config or vision_config, options) if parts.teacher else None,
        language_model=language_model,
        lm_head=lm_head,
    )
    model = Exo2EgoForConditionalGeneration(config, pretrained)
    if options.videollama2 is not None:
        weights = connector_weights_of_videollama2(Path(options.videollama2))
        for connector in (model.model.connector, model.model.connector_exo):
            if connector is not None:
                load_exactly(connector, weights, where=options.videollama2)
    if parts.lora is not None:
        add_lora(model, parts.lora)
    return model


def build_config(
    options: ModelOptions,
    parts: ModelParts,
    tokenizer: PreTrainedTokenizerBase,
    vision_config: PretrainedConfig,
    text_config: PretrainedConfig,
) -> Exo2EgoConfig:
    """Returns the transformers configuration for `options` with the parts of one stage."""
    teacher = part_config(options.teacher_tower, vision=True) if options.teacher_tower is not None else None
    return Exo2EgoConfig(
        vision_config=vision_config,
        text_config=text_config,
        teacher_config=teacher,
        connector=options.connector.model_dump(),
        mapper=options.mapper.model_dump(),
        fusion=options.fusion,
        fusion_order=options.fusion_order,
        view_embedding=options.view_embedding,
        vision_feature_layer=options.vision_feature_layer,
        num_frames=options.num_frames,
        video_token_id=tokenizer.convert_tokens_to_ids(VIDEO_TOKEN),
        has_teacher=parts.teacher,
        has_mapper=parts.mapper,
        has_inverse=parts.inverse,
        attn_implementation=options.attention,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def part_config(part: PartOptions, *, vision: bool) -> PretrainedConfig:
    """Returns the transformers configuration of a tower or language model."""
    if part.architecture is not None:
        values = dict(part.architecture)
        model_type = values.pop("model_type", None)
        if model_type is None:
            raise ConfigError("model: architecture needs `model_type`, for example clip_vision_model or mistral")
        return AutoConfig.for_model(model_type, **values)
    config = AutoConfig.from_pretrained(_existing(str(part.from_pretrained), "model: from_pretrained"))
    return getattr(config, "vision_config", config) if vision else config


def _tower(part: PartOptions, config: PretrainedConfig, options: ModelOptions) -> PreTrainedModel:
    truncated = truncated_config(config, options.vision_feature_layer)
    if part.from_pretrained is None:
        model: PreTrainedModel = AutoModel.from_config(truncated, attn_implementation=options.attention)
        return model
    model, report = AutoModel.from_pretrained(
        part.from_pretrained,
        config=truncated,
        attn_implementation=options.attention,
        dtype=torch.float32,
        output_loading_info=True,
    )
    missing = [key for key in report["missing_keys"] if not UNUSED_TOWER_WEIGHTS.match(key) or ".layers." in key]
    unexpected = [key for key in report["unexpected_keys"] if not UNUSED_TOWER_WEIGHTS.match(key)]
    _require_none(part.from_pretrained, missing, unexpected)
    return model


def _language_model(options: ModelOptions, vocabulary_size: int) -> tuple[PreTrainedModel, nn.Linear]:
    part = options.language_model
    if part.from_pretrained is None:
        config = part_config(part, vision=False)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation=options.attention)
    else:
        model, report = AutoModelForCausalLM.from_pretrained(
            _existing(part.from_pretrained, "model.language_model.from_pretrained"),
            attn_implementation=options.attention,
            dtype="auto",
            output_loading_info=True,
        )
        _require_none(part.from_pretrained, report["missing_keys"], report["unexpected_keys"])
    _grow_vocabulary(model, vocabulary_size)
    head = model.get_output_embeddings()
    assert isinstance(head, nn.Linear)
    return model.get_decoder(), head


@torch.no_grad()
def _grow_vocabulary(model: PreTrainedModel, vocabulary_size: int) -> None:
    """Appends zero rows for new tokens: a zero head row never wins against a trained one, and is never generated."""
    old_size = model.config.vocab_size
    if vocabulary_size <= old_size:
        return
    model.resize_token_embeddings(vocabulary_size, pad_to_multiple_of=VOCABULARY_MULTIPLE, mean_resizing=False)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        layer.weight[old_size:] = 0


def add_lora(model: Exo2EgoForConditionalGeneration, options: LoraOptions) -> None:
    """Injects adapters into the language model's linear layers; the freeze table decides afterwards what trains."""
    config = LoraConfig(
        r=options.rank, lora_alpha=options.alpha, lora_dropout=options.dropout, target_modules=LORA_TARGETS, bias="none"
    )
    inject_adapter_in_model(config, model)


def _existing(source: str, key: str) -> str:
    """Returns `source`; a local path that does not exist is an error, a hub name (`owner/name`) is left to the hub."""
    looks_local = source.startswith((".", "/", "~")) or source.count("/") != 1
    if looks_local and not Path(source).expanduser().exists():
        raise ConfigError(f"{key}: folder {source} does not exist; give a folder or a hub name such as owner/name")
    return source


def _require_none(source: str | None, missing: Any, unexpected: Any) -> None:
    if missing or unexpected:
        raise CheckpointError(
            f"{source}: {len(missing)} tensors are missing {sorted(missing)[:5]} and {len(unexpected)} are unexpected "
            f"{sorted(unexpected)[:5]}; is this the right model for the configuration?"
        )
