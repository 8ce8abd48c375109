"""Building a model from its options: published weights or random ones, tokenizer with `<video>`, LoRA adapters."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from exo2ego.errors import ConfigError
from exo2ego.model.configuration import Exo2EgoConfig
from exo2ego.model.modeling import Exo2EgoForConditionalGeneration, PretrainedParts
from exo2ego.model.options import ModelOptions, PartOptions
from exo2ego.model.parts import LoraOptions, ModelParts
from exo2ego.model.tokens import VIDEO_TOKEN
from exo2ego.model.vision_tower import truncated_config
from exo2ego.model.weights import connector_weights_of_videollama2, load_exactly, load_pretrained

VOCABULARY_MULTIPLE = 64

# tensors of a published CLIP or SigLIP that are no part of its vision tower
BESIDE_TOWER = ("text_model.", "text_projection.", "visual_projection.", "logit_", "head.")

# every linear layer of the language model's blocks, and of nothing else: CLIP has q_proj, k_proj, v_proj too
LORA_TARGETS = r".*language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"


def build_tokenizer(options: ModelOptions) -> PreTrainedTokenizerBase:
    """Loads the language model's tokenizer and adds `<video>` and a padding token where they are missing."""
    source = options.tokenizer or options.language_model.from_pretrained
    if source is None:
        raise ConfigError("model.tokenizer: a language model with random weights needs the folder of a tokenizer")
    tokenizer: PreTrainedTokenizerBase = _read(AutoTokenizer, source, "model.tokenizer")
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
    language_model, lm_head = _language_model(options, len(tokenizer))
    config = build_config(options, parts, tokenizer, vision_config, language_model.config)
    pretrained = PretrainedParts(
        vision_tower=_tower(options.vision_tower, vision_config, options),
        language_model=language_model,
        lm_head=lm_head,
    )
    if parts.teacher:
        teacher = options.teacher_tower or options.vision_tower
        pretrained.teacher_tower = _tower(teacher, config.teacher_config or vision_config, options)
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
        return _architecture_config(**part.architecture)
    config: PretrainedConfig = _read(AutoConfig, str(part.from_pretrained), "model: from_pretrained")
    return getattr(config, "vision_config", config) if vision else config


def _architecture_config(model_type: str = "", **values: Any) -> PretrainedConfig:
    """Returns a configuration of transformers, which by itself would keep a misspelt size and use the default one."""
    if model_type not in CONFIG_MAPPING:
        nearest = difflib.get_close_matches(model_type, list(CONFIG_MAPPING), n=1) or ["clip_vision_model or mistral"]
        raise ConfigError(f"model: architecture.model_type `{model_type}` is unknown; did you mean {nearest[0]}?")
    unknown = sorted(values.keys() - AutoConfig.for_model(model_type).to_dict().keys())
    if unknown:
        raise ConfigError(f"model: architecture of {model_type} has no {', '.join(unknown)}")
    return AutoConfig.for_model(model_type, **values)


def _tower(part: PartOptions, config: PretrainedConfig, options: ModelOptions) -> PreTrainedModel:
    truncated = truncated_config(config, options.vision_feature_layer)
    if part.from_pretrained is None:
        model: PreTrainedModel = AutoModel.from_config(truncated, attn_implementation=options.attention)
        return model

    def is_unused(name: str) -> bool:
        layer = re.search(r"\blayers\.(\d+)\.", name)
        return name.startswith(BESIDE_TOWER) or (layer is not None and int(layer[1]) >= truncated.num_hidden_layers)

    return load_pretrained(
        AutoModel,
        _existing(part.from_pretrained, "model.vision_tower.from_pretrained"),
        is_unused=is_unused,
        config=truncated,
        attn_implementation=options.attention,
        dtype=torch.float32,
    )


def _language_model(options: ModelOptions, vocabulary_size: int) -> tuple[PreTrainedModel, nn.Linear]:
    part = options.language_model
    if part.from_pretrained is None:
        config = part_config(part, vision=False)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation=options.attention)
    else:
        source = _existing(part.from_pretrained, "model.language_model.from_pretrained")
        model = load_pretrained(AutoModelForCausalLM, source, attn_implementation=options.attention, dtype="auto")
    _grow_vocabulary(model, vocabulary_size)
    head = model.get_output_embeddings()
    assert isinstance(head, nn.Linear)
    if head.weight is model.get_input_embeddings().weight:  # untied: every tensor has one name in tables and files
        head.weight = nn.Parameter(head.weight.detach().clone())
        model.config.tie_word_embeddings = False
    return model.get_decoder(), head


@torch.no_grad()
def _grow_vocabulary(model: PreTrainedModel, vocabulary_size: int) -> None:
    """Appends zero rows for new tokens: a logit of 0 is far below the best one of a trained head."""
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


def _read(auto_class: Any, source: str, key: str) -> Any:
    try:
        return auto_class.from_pretrained(_existing(source, key))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key}: {source} cannot be read: {error}") from error


def _existing(source: str, key: str) -> str:
    """Returns `source`; a local path that does not exist is an error, a hub name (`owner/name`) is left to the hub."""
    folder = Path(source).expanduser()
    if folder.exists():
        return str(folder)
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise ConfigError(f"{key}: folder {source} does not exist; give a folder or a hub name such as owner/name")
    return source
