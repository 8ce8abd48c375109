"""Many continuations of one prefix in one pass: a tree of token segments under a shared key-value cache.

A segment sees the prefix, the segments above it, and its own earlier tokens, as if each path from the root to a leaf
were a sequence of its own; nothing of the cache is copied. Letters in shapes: S tokens of all segments, P of the
prefix, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """Some tokens that follow the end of `parent`, or of the prefix where that is None."""

    ids: list[int]
    parent: int | None = None
    """Number of an earlier segment."""


@dataclass(frozen=True)
class TreeInputs:
    """What a causal language model needs to read the tree after its prefix."""

    input_ids: Tensor
    """[1, S]"""
    position_ids: Tensor
    """[1, S]"""
    attention_mask: Tensor
    """[1, 1, S, P + S], 0 where a token sees another and the smallest number of its type elsewhere."""
    starts: list[int]
    """Place of every segment's first token in S."""


def tree_inputs(segments: Sequence[Segment], prefix_length: int, dtype: torch.dtype) -> TreeInputs:
    """Lays the segments one after another; raises `ValueError` for a parent that is not before its child."""
    total = sum(len(segment.ids) for segment in segments)
    sees = torch.zeros(total, prefix_length + total, dtype=torch.bool)
    sees[:, :prefix_length] = True
    positions = torch.empty(total, dtype=torch.long)
    starts: list[int] = []
    depths: list[int] = []  # position after the last token of a segment
    place = 0
    for number, segment in enumerate(segments):
        if segment.parent is not None and not 0 <= segment.parent < number:
            raise ValueError(f"segment {number} follows segment {segment.parent}, which is not before it")
        end = place + len(segment.ids)
        begins_at = prefix_length if segment.parent is None else depths[segment.parent]
        positions[place:end] = torch.arange(begins_at, begins_at + len(segment.ids))
        own = slice(prefix_length + place, prefix_length + end)
        sees[place:end, own] = torch.ones(len(segment.ids), len(segment.ids), dtype=torch.bool).tril()
        above = segment.parent
        while above is not None:
            first = prefix_length + starts[above]
            sees[place:end, first : first + len(segments[above].ids)] = True
            above = segments[above].parent
        starts.append(place)
        depths.append(begins_at + len(segment.ids))
        place = end
    mask = torch.zeros(sees.shape, dtype=dtype).masked_fill(~sees, torch.finfo(dtype).min)
    ids = [token for segment in segments for token in segment.ids]
    return TreeInputs(torch.tensor([ids]), positions.unsqueeze(0), mask[None, None], starts)
