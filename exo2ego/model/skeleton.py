"""Models without weights: everything on torch's meta device, from configurations alone, without a network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers.utils import cached_file

from exo2ego.config import read_config_file
from exo2ego.errors import ConfigError
from exo2ego.model.building import VOCABULARY_MULTIPLE, add_lora, build_config, part_config
from exo2ego.model.configuration import Exo2EgoConfig
from exo2ego.model.modeling import Exo2EgoForConditionalGeneration
from exo2ego.model.options import ModelOptions, PartOptions
from exo2ego.model.parts import LoraOptions, ModelParts
from exo2ego.model.tokens import VIDEO_TOKEN

PUBLISHED = Path(__file__).parent / "configs" / "published.yaml"
PART_ROLES = {"vision_tower": "vision", "teacher_tower": "vision", "language_model": "text"}


def build_skeleton(options: ModelOptions, parts: ModelParts) -> tuple[Exo2EgoForConditionalGeneration, list[str]]:
    """Returns the model of a stage without weights, and the names whose sizes are from the table of published models.

    Raises `ConfigError` for a name whose configuration is neither on this machine nor in that table.
    """
    local, from_table = _without_network(options)
    vision = part_config(local.vision_tower, vision=True)
    text = part_config(local.language_model, vision=False)
    tokenizer = _TokenizerSizes(_num_tokens(options, text.vocab_size))
    if len(tokenizer) > text.vocab_size:
        text.vocab_size = -(-len(tokenizer) // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    text.tie_word_embeddings = False
    config = build_config(local, parts, tokenizer, vision, text)
    return skeleton_of(config, parts.lora), from_table


def skeleton_of(config: Exo2EgoConfig, lora: LoraOptions | None) -> Exo2EgoForConditionalGeneration:
    """Returns the model of a configuration without weights; fused attention of every kind costs as `sdpa` does."""
    eager = config._attn_implementation == "eager"
    for each in (config, config.vision_config, config.text_config, config.teacher_config):
        if each is not None:
            each._attn_implementation = "eager" if eager else "sdpa"
    with torch.device("meta"):
        model = Exo2EgoForConditionalGeneration(config)
        if lora is not None:
            add_lora(model, lora)
    return model


def published(name: str | None) -> dict[str, Any]:
    """Returns what is known of a published model by its hub name; empty for an unknown one."""
    known: dict[str, Any] = read_config_file(PUBLISHED).get(str(name), {})
    return known


def local_folder(name: str, file_name: str = "config.json") -> Path | None:
    """Returns the folder on this machine that holds a model: itself, or its place in the hub's cache; None if none."""
    folder = Path(name).expanduser()
    if folder.exists():
        return folder
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        return None
    found = cached_file(
        name,
        file_name,
        local_files_only=True,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if found is None else Path(found).parent


@dataclass(frozen=True)
class _TokenizerSizes:
    """What a model's configuration asks of a tokenizer."""

    num_tokens: int
    bos_token_id: ClassVar[int] = 1
    eos_token_id: ClassVar[int] = 2
    pad_token_id: ClassVar[int] = 0

    def __len__(self) -> int:
        return self.num_tokens

    def convert_tokens_to_ids(self, token: str) -> int:
        """Returns the id of `<video>`, which comes last."""
        return self.num_tokens - 1


def _without_network(options: ModelOptions) -> tuple[ModelOptions, list[str]]:
    """Replaces hub names by folders of the cache or sizes of the table."""
    replaced: dict[str, PartOptions] = {}
    from_table = []
    for key, role in PART_ROLES.items():
        part: PartOptions | None = getattr(options, key)
        if part is None or part.from_pretrained is None:
            continue
        folder = local_folder(part.from_pretrained)
        if folder is not None:
            replaced[key] = part.model_copy(update={"from_pretrained": str(folder)})
            continue
        sizes = published(part.from_pretrained).get(role)
        if sizes is None:
            raise ConfigError(
                f"model.{key}: {part.from_pretrained} is no folder, was not downloaded, and is not in the table of "
                f"published models ({PUBLISHED.name}); download it, or give its sizes as `architecture`"
            )
        from_table.append(part.from_pretrained)
        replaced[key] = part.model_copy(update={"from_pretrained": None, "architecture": sizes})
    return options.model_copy(update=replaced), from_table


def _num_tokens(options: ModelOptions, vocabulary_size: int) -> int:
    """Returns the length of the tokenizer with `<video>`: on this machine, as published, or the vocabulary's."""
    name = options.tokenizer or options.language_model.from_pretrained
    folder = local_folder(name, "tokenizer.json") if name is not None else None
    if folder is not None and (folder / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return int(tokenizer.get_vocab_size()) + (tokenizer.token_to_id(VIDEO_TOKEN) is None)
    return int(published(name).get("num_tokens", vocabulary_size)) + 1
