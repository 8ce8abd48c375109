"""Cycle loss: the mean absolute error by hand, padding, scale, and where the gradient stops."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from exo2ego.losses.cycle import cycle_loss

TOLERANCE = 1e-6  # float32 means of a few hundred terms of size 1
B, T, L, C = 2, 3, 4, 5


def pair(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((B, T, L, C), generator=generator), torch.randn((B, T, L, C), generator=generator)


def test_by_hand() -> None:
    start = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])  # B=2, T=1, L=2, C=2
    returned = torch.tensor([[[[1.0, 4.0], [2.0, 8.0]]], [[[-1.0, 1.0], [0.0, 0.0]]]])
    assert cycle_loss(start, returned).tolist() == [7 / 4, 2 / 4]
    assert cycle_loss(start, returned, scale=torch.tensor([1.0, 2.0])).tolist() == [4 / 4, 1.5 / 4]
    second_only = torch.tensor([[[False, True]], [[False, True]]])
    assert cycle_loss(start, returned, valid=second_only).tolist() == [5 / 2, 0.0]


@given(st.integers(0, 2**32 - 1))
def test_the_mean_of_the_l1_norm(seed: int) -> None:
    start, returned = pair(seed)
    expected = torch.nn.functional.l1_loss(returned, start, reduction="none").flatten(1).mean(1)
    torch.testing.assert_close(cycle_loss(start, returned), expected, rtol=TOLERANCE, atol=TOLERANCE)
    everything = torch.ones(B, T, L, dtype=torch.bool)
    torch.testing.assert_close(cycle_loss(start, returned, valid=everything), expected, rtol=TOLERANCE, atol=TOLERANCE)


@given(st.integers(0, 2**32 - 1))
def test_padding_cannot_change_the_value(seed: int) -> None:
    start, returned = pair(seed)
    valid = torch.rand((B, T, L), generator=torch.Generator().manual_seed(seed)) < 0.5
    dirty = returned.masked_fill(~valid.unsqueeze(-1), 1000.0)
    assert torch.equal(cycle_loss(start, dirty, valid=valid), cycle_loss(start, returned, valid=valid))


def test_a_clip_of_padding_alone_has_loss_zero() -> None:
    start, returned = pair()
    assert cycle_loss(start, returned, valid=torch.zeros(B, T, L, dtype=torch.bool)).tolist() == [0.0, 0.0]


def test_the_gradient_stops_at_the_target() -> None:
    start, returned = (value.requires_grad_() for value in pair())
    cycle_loss(start, returned).sum().backward()
    assert start.grad is None
    assert returned.grad is not None
    assert returned.grad.abs().min() > 0
    cycle_loss(start, returned, detach_target=False).sum().backward()
    assert start.grad is not None


def test_accumulates_in_float32() -> None:
    start = torch.full((1, 8, 64, 64), 256.0, dtype=torch.bfloat16)
    returned = start + 2
    found = cycle_loss(start, returned)
    assert found.dtype == torch.float32
    assert found.item() == 2.0
