"""Grids: features and masks that move from one to another."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exo2ego.model.geometry import TowerGeometry, resampled, resampled_mask

TOLERANCE = 1e-6  # float32 rounding of a mean of two


def test_half_as_many_time_steps_are_means_of_pairs() -> None:
    features = torch.randn(2, 6, 9, 5)
    halved = resampled(features, (6, 3, 3), (3, 3, 3))
    torch.testing.assert_close(halved, features.unflatten(1, (3, 2)).mean(dim=2), rtol=TOLERANCE, atol=TOLERANCE)


def test_equal_grids_change_nothing() -> None:
    features = torch.randn(1, 2, 9, 4)
    assert resampled(features, (2, 3, 3), (2, 3, 3)) is features


@given(*[st.tuples(st.integers(1, 6), st.integers(1, 7), st.integers(1, 7))] * 2)
def test_what_is_the_same_everywhere_stays_so(source: tuple[int, int, int], target: tuple[int, int, int]) -> None:
    channels = torch.tensor([1.0, -2.0, 0.5])
    moved = resampled(channels.expand(2, source[0], source[1] * source[2], 3), source, target)
    expected = channels.expand(2, target[0], target[1] * target[2], 3)
    torch.testing.assert_close(moved, expected, rtol=TOLERANCE, atol=TOLERANCE)


@given(st.integers(1, 12), st.integers(1, 12), st.randoms(use_true_random=False))
def test_a_mask_is_true_where_anything_real_was_mixed_in(before: int, after: int, random: object) -> None:
    """As the features: a place whose interpolation has weight on a real patch counts."""
    generator = torch.Generator().manual_seed(random.randint(0, 1000))  # type: ignore[attr-defined]
    mask = torch.rand(2, before**2, generator=generator) > 0.5
    moved = resampled_mask(mask, after**2)
    weights = resampled(mask.float()[:, None, :, None], (1, before, before), (1, after, after))[:, 0, :, 0]
    if before == after:
        assert torch.equal(moved, mask)
    assert torch.equal(moved, weights > 0)


@pytest.mark.parametrize(("size", "patch", "grid"), [(336, 14, 24), (384, 16, 24), (384, 14, 27)])
def test_grids_of_published_towers(size: int, patch: int, grid: int) -> None:
    assert TowerGeometry(1152, size, patch).grid(16) == (16, grid, grid)
    assert TowerGeometry(1280, size, patch, frames_per_step=2).grid(16) == (8, grid, grid)
