"""KL divergence: properties of a divergence for every kind, parity with torch's own, padding, precision."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn import functional

from exo2ego.losses.divergence import Direction, Divergence, divergence_loss

KINDS = get_args(Divergence)
DIRECTIONS = get_args(Direction)
EPSILON = 1e-3
TOLERANCE = 1e-5  # float32 sums of a few hundred terms of size 1
BFLOAT16_TOLERANCE = 1e-6  # the same float32 arithmetic on inputs that were rounded before
B, T, L, C = 2, 3, 9, 5

any_kind = st.sampled_from(KINDS)
any_direction = st.sampled_from(DIRECTIONS)
any_seed = st.integers(0, 2**32 - 1)
any_scale = st.floats(0.01, 30)


def features(seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn((B, T, L, C), generator=torch.Generator().manual_seed(seed)) * scale


def mask(seed: int = 0) -> Tensor:
    """[B, T, L], with at least two patches of every frame."""
    valid = torch.rand((B, T, L), generator=torch.Generator().manual_seed(seed)) < 0.5
    valid[..., :2] = True
    return valid


@given(any_kind, any_direction, any_seed, any_scale)
def test_zero_at_equality(kind: Divergence, direction: Direction, seed: int, scale: float) -> None:
    same = features(seed, scale)
    loss = divergence_loss(same, same.clone(), kind=kind, direction=direction)
    assert loss.shape == (B,)
    assert loss.dtype == torch.float32
    assert loss.abs().max() < TOLERANCE


@given(any_kind, any_direction, any_seed, any_scale, any_scale)
def test_never_negative(kind: Divergence, direction: Direction, seed: int, scale: float, other_scale: float) -> None:
    teacher, student = features(seed, scale), features(seed + 1, other_scale)
    assert divergence_loss(teacher, student, kind=kind, direction=direction).min() > -TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_positive_where_teacher_and_student_differ(kind: Divergence) -> None:
    assert divergence_loss(features(0), features(1) + 1, kind=kind).min() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_reverse_swaps_and_symmetric_is_the_mean(kind: Divergence) -> None:
    teacher, student = features(0), features(1, 2.0)
    forward, reverse, symmetric = (
        divergence_loss(teacher, student, kind=kind, direction=direction) for direction in DIRECTIONS
    )
    assert (forward - reverse).abs().min() > TOLERANCE
    torch.testing.assert_close(symmetric, (forward + reverse) / 2, rtol=TOLERANCE, atol=TOLERANCE)
    if kind != "softmax_pooled":  # whose standardisation belongs to the teacher
        swapped = divergence_loss(student, teacher, kind=kind, direction="forward")
        torch.testing.assert_close(reverse, swapped, rtol=TOLERANCE, atol=TOLERANCE)


@given(any_seed, st.permutations(range(L)))
def test_gaussian_ignores_places_and_softmax_does_not(seed: int, order: list[int]) -> None:
    """A9: ego and exo show the same thing at different places."""
    teacher = features(seed)
    moved = teacher[:, :, order]
    assert divergence_loss(teacher, moved).abs().max() < TOLERANCE
    if order != sorted(order):
        assert divergence_loss(teacher, moved, kind="softmax").max() > 0.01


def normals(value: Tensor, axes: tuple[int, ...]) -> Normal:
    variance = value.var(axes, unbiased=False, keepdim=True)
    return Normal(value.mean(axes, keepdim=True), (variance + EPSILON).sqrt())


@pytest.mark.parametrize(
    ("kind", "axes"), [("gaussian", (2,)), ("gaussian_clip", (1, 2)), ("gaussian_batch", (0, 1, 2))]
)
def test_gaussian_equals_torch_distributions(kind: Divergence, axes: tuple[int, ...]) -> None:
    teacher, student = features(0), features(1, 2.0) + 0.5
    expected = kl_divergence(normals(teacher, axes), normals(student, axes)).flatten(1).mean(1).expand(B)
    found = divergence_loss(teacher, student, kind=kind, epsilon=EPSILON)
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize(("kind", "axis"), [("softmax", -1), ("softmax_space", 2)])
def test_softmax_equals_torch_kl_div(kind: Divergence, axis: int, temperature: float) -> None:
    teacher, student = features(0), features(1, 2.0)
    pointwise = functional.kl_div(
        (student / temperature).log_softmax(axis),
        (teacher / temperature).log_softmax(axis),
        log_target=True,
        reduction="none",
    )
    expected = pointwise.sum(axis).flatten(1).mean(1) * temperature**2
    found = divergence_loss(teacher, student, kind=kind, temperature=temperature)
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_pooled_softmax_compares_standardised_patch_means() -> None:
    teacher, student = features(0), features(1, 2.0)
    center = teacher.mean((1, 2), keepdim=True)
    spread = teacher.var((1, 2), unbiased=False, keepdim=True).sqrt() + 1e-3
    log_p, log_q = (((side.mean(2, keepdim=True) - center) / spread).log_softmax(-1) for side in (teacher, student))
    expected = (log_p.exp() * (log_p - log_q)).sum(-1).mean((1, 2))
    found = divergence_loss(teacher, student, kind="softmax_pooled")
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_pooled_softmax_survives_an_outlier_channel() -> None:
    """CLIP has channels of size 30 among others of size 1; a plain softmax sees nothing else."""
    outlier = torch.tensor([1.0, 1.0, 1.0, 1.0, 60.0])
    teacher, student = features(0) + outlier, features(1) + outlier + torch.tensor([3.0, 0, 0, 0, 0])
    assert divergence_loss(teacher, student, kind="softmax").max() < 1e-6
    assert divergence_loss(teacher, student, kind="softmax_pooled").min() > 0.1


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "gaussian_batch"])
def test_a_clip_counts_the_same_in_any_batch(kind: Divergence) -> None:
    """Or accumulation 2 x 4 would not be 1 x 8."""
    teacher, student = features(0), features(1)
    together = divergence_loss(teacher, student, kind=kind)
    alone = torch.cat([divergence_loss(teacher[i : i + 1], student[i : i + 1], kind=kind) for i in range(B)])
    torch.testing.assert_close(together, alone, rtol=TOLERANCE, atol=TOLERANCE)


@given(any_kind, any_direction, any_seed, st.floats(0.1, 4))
def test_padding_cannot_change_the_value(kind: Divergence, direction: Direction, seed: int, temperature: float) -> None:
    teacher, student, valid, student_valid = features(seed), features(seed + 1), mask(seed), mask(seed + 1)
    if kind in ("softmax", "softmax_space"):  # these compare place with place
        valid = student_valid = valid & student_valid
    options = {"kind": kind, "direction": direction, "temperature": temperature}
    clean = divergence_loss(teacher, student, valid=valid, student_valid=student_valid, **options)
    dirty_teacher = teacher.masked_fill(~valid.unsqueeze(-1), 1000.0)
    dirty_student = student.masked_fill(~student_valid.unsqueeze(-1), -1000.0)
    dirty = divergence_loss(dirty_teacher, dirty_student, valid=valid, student_valid=student_valid, **options)
    assert clean.isfinite().all()
    torch.testing.assert_close(dirty, clean, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_equals_leaving_the_patches_out(kind: Divergence) -> None:
    teacher, student = features(0), features(1)
    valid = torch.ones(B, T, L, dtype=torch.bool)
    valid[..., 4:] = False
    masked = divergence_loss(teacher, student, kind=kind, valid=valid, student_valid=valid)
    by_hand = divergence_loss(teacher[:, :, :4], student[:, :, :4], kind=kind)
    torch.testing.assert_close(masked, by_hand, rtol=TOLERANCE, atol=TOLERANCE)


def test_each_side_has_its_own_mask() -> None:
    """An ego frame is square and has no padding, an exo frame has (A17)."""
    teacher, student = features(0), features(1)
    valid = torch.zeros(B, T, L, dtype=torch.bool)
    valid[..., :4] = True
    masked = divergence_loss(teacher, student, valid=valid, student_valid=torch.ones_like(valid))
    torch.testing.assert_close(masked, divergence_loss(teacher[:, :, :4], student), rtol=TOLERANCE, atol=TOLERANCE)
    one_sided = divergence_loss(teacher, student, kind="softmax", student_valid=valid)
    by_hand = divergence_loss(teacher[:, :, :4], student[:, :, :4], kind="softmax")
    torch.testing.assert_close(one_sided, by_hand, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["softmax", "softmax_space"])
def test_places_are_compared_where_both_sides_show_the_video(kind: Divergence) -> None:
    teacher, student, valid, student_valid = features(0), features(1), mask(0), mask(1)
    assert not torch.equal(valid, student_valid)
    both = valid & student_valid
    found = divergence_loss(teacher, student, kind=kind, valid=valid, student_valid=student_valid)
    expected = divergence_loss(teacher, student, kind=kind, valid=both, student_valid=both)
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
def test_a_view_of_padding_alone_is_finite(kind: Divergence) -> None:
    """A clip with fewer views than others in its batch: its weight is 0, and 0 times NaN would be NaN."""
    student = features(1).requires_grad_()
    nothing = torch.zeros(B, T, L, dtype=torch.bool)
    loss = divergence_loss(torch.zeros(B, T, L, C), student, kind=kind, valid=nothing, student_valid=mask())
    (loss * 0).sum().backward()
    assert loss.isfinite().all()
    assert student.grad is not None
    assert not student.grad.any()


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_are_float32(kind: Divergence) -> None:
    teacher, student = (value.bfloat16() for value in (features(0) + 100, features(1) + 100))
    found = divergence_loss(teacher, student, kind=kind)
    assert found.dtype == torch.float32
    expected = divergence_loss(teacher.float(), student.float(), kind=kind)
    torch.testing.assert_close(found, expected, rtol=BFLOAT16_TOLERANCE, atol=BFLOAT16_TOLERANCE)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = divergence_loss(teacher, student, kind=kind)
    assert under_autocast.dtype == torch.float32
    torch.testing.assert_close(under_autocast, expected, rtol=BFLOAT16_TOLERANCE, atol=BFLOAT16_TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_stops_at_the_teacher(kind: Divergence) -> None:
    teacher, student = features(0).requires_grad_(), features(1).requires_grad_()
    divergence_loss(teacher, student, kind=kind).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().max() > 0
    divergence_loss(teacher, student, kind=kind, detach_teacher=False).sum().backward()
    assert teacher.grad is not None


@pytest.mark.parametrize("kind", ["softmax", "softmax_space", "softmax_pooled"])
def test_temperature_flattens_and_its_square_keeps_the_size(kind: Divergence) -> None:
    teacher, student = features(0), features(1)
    hot = divergence_loss(teacher, student, kind=kind, temperature=20.0)
    hotter = divergence_loss(teacher, student, kind=kind, temperature=40.0)
    torch.testing.assert_close(hot, hotter, rtol=0.1, atol=0)  # near the limit of great temperature
    assert hot.min() > 0.01


def test_the_floor_bounds_a_collapsed_student() -> None:
    """specs: forward KL with a constant student is 1 / epsilon / 2 large, not infinite."""
    teacher, student = features(0), torch.zeros(B, T, L, C).requires_grad_()
    loss = divergence_loss(teacher, student, epsilon=EPSILON)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    second_moment = float(teacher.square().mean())
    spread = teacher.var(2, unbiased=False) + EPSILON
    expected = 0.5 * (math.log(EPSILON) - spread.log().mean() + (second_moment + EPSILON) / EPSILON - 1)
    assert float(loss.detach().mean()) == pytest.approx(float(expected), rel=1e-4)
