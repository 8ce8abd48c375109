"""Which attention kernel towers and language model use: flash-attention 2 where it can run, else torch's SDPA."""

from __future__ import annotations

import importlib.util

import torch

from exo2ego.errors import ConfigError
from exo2ego.model.options import ModelOptions

FLASH = "flash_attention_2"
AMPERE = (8, 0)
"""Compute capability from which flash-attention 2 runs."""


def choose_attention(options: ModelOptions, precision: str) -> tuple[ModelOptions, str]:
    """Returns the options with a kernel filled in where none is named, and a few words for the console.

    Raises `ConfigError` when flash-attention is asked for and cannot run.
    """
    obstacle = obstacle_to_flash(precision)
    if options.attention is None:
        chosen = FLASH if obstacle is None else "sdpa"
        words = chosen if obstacle is None else f"{chosen} (no flash-attention: {obstacle})"
        return options.model_copy(update={"attention": chosen}), words
    if options.attention == FLASH and obstacle is not None:
        raise ConfigError(
            f"model.attention: {FLASH} cannot be used: {obstacle}; leave the option out for torch's own kernel "
            "(sdpa), or install the package with pip install 'exo2ego[flash]' on a machine with such a GPU"
        )
    return options, options.attention


def obstacle_to_flash(precision: str) -> str | None:
    """Returns what keeps flash-attention 2 from running here, None if nothing does."""
    if importlib.util.find_spec("flash_attn") is None:
        return "the package flash-attn is not installed"
    if precision != "bf16":
        return f"it computes in bf16 and precision is {precision}"
    if not torch.cuda.is_available():
        return "there is no GPU"
    if torch.cuda.get_device_capability() < AMPERE:
        return "the GPU is older than Ampere"
    return None
