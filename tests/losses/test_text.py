"""Text loss: the sum of negative log-probabilities, so that any split of a batch adds up."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from exo2ego.losses.text import text_loss

TOLERANCE = 1e-5  # float32 sums of up to 20 terms of size 3
VOCABULARY = 11


def test_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]))
    assert math.isclose(float(text_loss(logits, torch.tensor([0, 1]))), math.log(2) - math.log(0.8), rel_tol=TOLERANCE)


@given(st.integers(1, 20), st.integers(0, 20), st.integers(0, 2**32 - 1))
def test_parts_of_a_batch_add_up(num_targets: int, cut: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((num_targets, VOCABULARY), generator=generator)
    ids = torch.randint(0, VOCABULARY, (num_targets,), generator=generator)
    parts = text_loss(logits[:cut], ids[:cut]) + text_loss(logits[cut:], ids[cut:])
    torch.testing.assert_close(parts, text_loss(logits, ids), rtol=TOLERANCE, atol=TOLERANCE)


def test_no_target_is_zero_with_a_graph() -> None:
    logits = torch.randn(3, VOCABULARY, requires_grad=True)
    loss = text_loss(logits[:0], torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_accumulates_in_float32() -> None:
    logits = torch.randn(50, VOCABULARY).bfloat16()
    ids = torch.zeros(50, dtype=torch.long)
    assert text_loss(logits, ids).dtype == torch.float32
    assert torch.equal(text_loss(logits, ids), text_loss(logits.float(), ids))
