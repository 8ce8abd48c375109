"""Logits in float32 of a model in half precision, so that two options tie only where their scores are really equal.

Letters in shapes: S places, D language model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

ROWS = 1 << 11
"""Tokens of the vocabulary that are predicted at once: 2,048 rows of width 3,584 are 28 MiB in float32, all 152,000 of
Qwen2 2 GiB; larger blocks are slower too."""


@contextmanager
def float32_logits(model: PreTrainedModel) -> Iterator[None]:
    """Lets the head of `model` give float32 logits within.

    Near 22 bfloat16 knows multiples of 0.125 alone, so that options often share the highest score; products of its
    numbers are exact in float32. A head in float32 stays as it is, and so does one that is no plain matrix (quantised,
    adapted): its own code decides what it gives.
    """
    head = model.get_output_embeddings()
    is_plain = type(head) is nn.Linear and type(head.weight) is nn.Parameter
    if not is_plain or head.weight.dtype not in (torch.bfloat16, torch.float16):
        yield
        return
    head.forward = partial(_project, head)  # of this module alone
    try:
        yield
    finally:
        del head.forward


def _project(head: nn.Linear, hidden: Tensor) -> Tensor:
    """Returns the logits [..., S, V] of hidden states [..., S, D]."""
    wide = hidden.float()
    logits = hidden.new_empty(*hidden.shape[:-1], head.out_features, dtype=torch.float32)
    for first in range(0, head.out_features, ROWS):
        rows = slice(first, first + ROWS)
        bias = head.bias[rows].float() if head.bias is not None else None
        logits[..., rows] = nn.functional.linear(wide, head.weight[rows].float(), bias)
    return logits
