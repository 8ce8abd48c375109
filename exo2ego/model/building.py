"""Building a model from its options: published weights or random ones, tokenizer with `<video>`, LoRA adapters."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from exo2ego.errors import ConfigError
from exo2ego.model import videollama2
from exo2ego.model.configuration import Exo2EgoConfig
from exo2ego.model.identity import module_identity, weights_identity
from exo2ego.model.modeling import Exo2EgoForConditionalGeneration, PretrainedParts
from exo2ego.model.options import ModelOptions, PartOptions
from exo2ego.model.parts import LoraOptions, ModelParts
from exo2ego.model.published import load_language_model, load_tower, published_config
from exo2ego.model.sources import located, require_whole
from exo2ego.model.tokens import VIDEO_TOKEN
from exo2ego.model.vision_tower import sized_config, tower_class
from exo2ego.model.weights import load_exactly, tell_loaded

VOCABULARY_MULTIPLE = 64

# every linear layer of the language model's blocks, and of nothing else: CLIP has q_proj, k_proj, v_proj too
LORA_TARGETS = r".*language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"


def build_tokenizer(options: ModelOptions) -> PreTrainedTokenizerBase:
    """Loads the language model's tokenizer and adds `<video>` and a padding token where they are missing."""
    part = options.language_model
    sources = {
        "model.tokenizer": options.tokenizer,
        "model.language_model.from_pretrained": part.from_pretrained,
        "model.language_model.videollama2": part.videollama2,
    }
    key, source = next(((key, value) for key, value in sources.items() if value is not None), (None, None))
    if key is None or source is None:
        raise ConfigError("model.tokenizer: a language model with random weights needs the folder of a tokenizer")
    folder = located(source, key, "tokenizer")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key}: the tokenizer of {source} cannot be read: {error}") from error
    if VIDEO_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_tokens([VIDEO_TOKEN], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def build_model(
    options: ModelOptions, parts: ModelParts, tokenizer: PreTrainedTokenizerBase, seed: int
) -> Exo2EgoForConditionalGeneration:
    """Builds the model with its base weights; what has no published weights is drawn from `seed`.

    Prints `loaded n / expected n` of every published part and notes their identity in the configuration
    (`base_weights`). Raises `CheckpointError` when published weights do not fill a part exactly.
    """
    torch.manual_seed(seed)
    started = _published_connector(options)  # before the language model, which takes minutes
    vision_config = part_config(options.vision_tower, vision=True)
    language_model, lm_head = _language_model(options, len(tokenizer))
    config = build_config(options, parts, tokenizer, vision_config, language_model.config)
    pretrained = PretrainedParts(
        vision_tower=_tower("vision_tower", options.vision_tower, vision_config, config.vision_feature_layer, options),
        language_model=language_model,
        lm_head=lm_head,
    )
    if parts.teacher:
        teacher = options.teacher_tower or options.vision_tower
        teacher_config = config.teacher_config or vision_config
        pretrained.teacher_tower = _tower(
            "teacher_tower", teacher, teacher_config, config.teacher_feature_layer, options
        )
    config.base_weights = _identities(options, pretrained)
    model = Exo2EgoForConditionalGeneration(config, pretrained)
    if started is not None:
        _start_connectors(model, *started)
    if parts.lora is not None:
        add_lora(model, parts.lora)
    return model


def attention_of(options: ModelOptions) -> str:
    """Returns the attention kernel, torch's own where none is named: for null, transformers makes no causal mask."""
    return options.attention or "sdpa"


def build_config(
    options: ModelOptions,
    parts: ModelParts,
    tokenizer: PreTrainedTokenizerBase,
    vision_config: PretrainedConfig,
    text_config: PretrainedConfig,
) -> Exo2EgoConfig:
    """Returns the transformers configuration for `options` with the parts of one stage."""
    teacher = None
    if options.teacher_tower is not None:
        teacher = part_config(options.teacher_tower, vision=True, key="model.teacher_tower")
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
        teacher_feature_layer=options.teacher_feature_layer,
        num_frames=options.num_frames,
        video_token_id=tokenizer.convert_tokens_to_ids(VIDEO_TOKEN),
        has_teacher=parts.teacher,
        has_mapper=parts.mapper,
        has_inverse=parts.inverse,
        attn_implementation=attention_of(options),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def part_config(part: PartOptions, *, vision: bool, key: str | None = None) -> PretrainedConfig:
    """Returns the transformers configuration of a tower or language model; `key` names the part in messages."""
    if part.architecture is not None:
        config = _architecture_config(**part.architecture)
    else:
        key = key or ("model.vision_tower" if vision else "model.language_model")
        config = published_config(part, key, vision=vision)
    return sized_config(getattr(config, "vision_config", config), part.image_size) if vision else config


def _architecture_config(model_type: str = "", **values: Any) -> PretrainedConfig:
    """Returns a configuration of transformers, which by itself would keep a misspelt size and use the default one."""
    if model_type not in CONFIG_MAPPING:
        nearest = difflib.get_close_matches(model_type, list(CONFIG_MAPPING), n=1) or ["clip_vision_model or mistral"]
        raise ConfigError(f"model: architecture.model_type `{model_type}` is unknown; did you mean {nearest[0]}?")
    unknown = sorted(values.keys() - AutoConfig.for_model(model_type).to_dict().keys())
    if unknown:
        raise ConfigError(f"model: architecture of {model_type} has no {', '.join(unknown)}")
    return AutoConfig.for_model(model_type, **values)


def _tower(
    name: str, part: PartOptions, config: PretrainedConfig, feature_layer: int, options: ModelOptions
) -> PreTrainedModel:
    kind = tower_class(config)
    truncated = kind.truncated(config, feature_layer)
    if part.architecture is not None:
        return kind.from_config(truncated, attention_of(options))
    return load_tower(part, kind, truncated, attention_of(options), key=f"model.{name}")


def _language_model(options: ModelOptions, vocabulary_size: int) -> tuple[PreTrainedModel, nn.Linear]:
    part = options.language_model
    if part.architecture is not None:
        config = part_config(part, vision=False)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation=attention_of(options))
    else:
        model = load_language_model(part, attention_of(options))
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


def _published_connector(options: ModelOptions) -> tuple[Path, dict[str, Tensor]] | None:
    """Returns the folder and the tensors of the connector that ours starts from, None where it starts at random."""
    if options.videollama2 is None:
        return None
    folder = located(options.videollama2, "model.videollama2", "connector")
    require_whole(folder, "connector")
    return folder, videollama2.connector_weights(folder)


def _start_connectors(model: Exo2EgoForConditionalGeneration, folder: Path, weights: dict[str, Tensor]) -> None:
    """Starts the connectors as VideoLLaMA2's; one for a teacher of another width stays random."""
    inner = model.model
    alike = inner.exo_geometry.width == inner.ego_geometry.width
    for name, connector in (("connector", inner.connector), ("connector_exo", inner.connector_exo if alike else None)):
        if connector is not None:
            load_exactly(connector, weights, where=str(folder))
            tell_loaded(name.replace("_", " "), folder, len(weights), len(connector.state_dict()))
    model.config.base_weights["connector"] = weights_identity(weights)


def _identities(options: ModelOptions, pretrained: PretrainedParts) -> dict[str, str]:
    """Returns the identity of every published part, so that a later stage can tell whether it has the same."""
    identities = {}
    if options.language_model.architecture is None:
        assert pretrained.language_model is not None
        assert pretrained.lm_head is not None
        body = pretrained.language_model.state_dict()
        identities["language_model"] = weights_identity(body | {"lm_head.weight": pretrained.lm_head.weight})
    teacher = options.teacher_tower or options.vision_tower
    for name, part, tower in (
        ("vision_tower", options.vision_tower, pretrained.vision_tower),
        ("teacher_tower", teacher, pretrained.teacher_tower),
    ):
        if tower is not None and part.architecture is None:
            identities[name] = module_identity(tower)
    return identities


def add_lora(model: Exo2EgoForConditionalGeneration, options: LoraOptions) -> None:
    """Injects adapters into the language model's linear layers; the freeze table decides afterwards what trains."""
    inject_adapter_in_model(lora_config(options), model)


def lora_config(options: LoraOptions) -> LoraConfig:
    """Returns peft's configuration of the adapters."""
    return LoraConfig(
        r=options.rank, lora_alpha=options.alpha, lora_dropout=options.dropout, target_modules=LORA_TARGETS, bias="none"
    )
