"""The keys and values of a prefix, from which many texts continue."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache


class _FullError(Exception):
    """Ends a pass of the model when the last layer has handed over its keys and values."""


class PrefixCache(DynamicCache):
    """A cache that is filled by a pass which ends early: what the last layer does with the prefix nobody needs.

    It keeps the whole prefix, also for layers with a sliding window: theirs could not be cut back after a question.
    """

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self._last_layer = num_layers - 1
        self._is_filling = False

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Ends what stands inside as soon as the cache is complete."""
        self._is_filling = True
        try:
            yield
        except _FullError:
            pass
        finally:
            self._is_filling = False

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Adds a layer's keys and values [B, heads, S, head width] and returns all of that layer."""
        states: tuple[Tensor, Tensor] = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        if self._is_filling and layer_idx == self._last_layer:
            raise _FullError
        return states
