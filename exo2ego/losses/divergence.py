"""KL divergence between the teacher's features y and the mapped features F(x) (Exo2Ego §4.3; not stated: A9, A10)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Divergence = Literal["gaussian", "gaussian_clip", "gaussian_batch", "softmax", "softmax_pooled", "softmax_space"]
Direction = Literal["forward", "reverse", "symmetric"]

REDUCED_AXES: dict[str, tuple[int, ...]] = {"gaussian": (2,), "gaussian_clip": (1, 2), "gaussian_batch": (0, 1, 2)}
SMALLEST_SPREAD = 1e-3  # added to a channel's standard deviation: one that never changes must not be blown up
NO_PROBABILITY = torch.finfo(torch.float32).min / 2  # a logit whose softmax is 0, far enough from infinity to subtract


def divergence_loss(
    teacher: Tensor,
    student: Tensor,
    *,
    kind: Divergence = "gaussian",
    direction: Direction = "forward",
    temperature: float = 1.0,
    epsilon: float = 1e-3,
    valid: Tensor | None = None,
    student_valid: Tensor | None = None,
    detach_teacher: bool = True,
) -> Tensor:
    """Returns KL(P_teacher || P_student) per clip [B] for features [B, T, L, C], float32; no gradient to the teacher.

    `valid` and `student_valid` [B, T, L] mark the patches that show the video (not padding; A17).

    - gaussian: diagonal Gaussians per frame and channel over the L patches,
      1/2 [log sq^2 - log sp^2 + (sp^2 + (mp - mq)^2) / sq^2 - 1] with variances + epsilon, mean over T and C;
      gaussian_clip and gaussian_batch fit over (T, L) and (B, T, L).
    - softmax: over channels at each patch; softmax_pooled: over channels of the patch mean, each channel standardised
      by the teacher's mean and spread in the clip; softmax_space: over patches per channel. All times temperature^2.
    """
    teacher, student = (teacher.detach() if detach_teacher else teacher).float(), student.float()
    if kind in REDUCED_AXES:
        return _gaussian(teacher, student, REDUCED_AXES[kind], direction, epsilon, valid, student_valid)
    if kind == "softmax_pooled":
        teacher, student = _pooled(teacher, student, valid, student_valid)
        valid = student_valid = None
    valid = _both(valid, student_valid)  # place is compared with place: both sides must show the video there
    teacher, student = teacher / temperature, student / temperature
    if kind == "softmax_space" and valid is not None:
        padding = ~valid.unsqueeze(-1)
        teacher, student = teacher.masked_fill(padding, NO_PROBABILITY), student.masked_fill(padding, NO_PROBABILITY)
    axis = 2 if kind == "softmax_space" else -1
    log_p, log_q = functional.log_softmax(teacher, axis), functional.log_softmax(student, axis)
    divergence = _directed(log_p, log_q, direction, axis) * temperature**2
    if kind == "softmax_space":
        return divergence.flatten(1).mean(dim=1)
    return _masked_mean(divergence, valid, axes=(1, 2))


def gaussian_kl(mean_p: Tensor, variance_p: Tensor, mean_q: Tensor, variance_q: Tensor) -> Tensor:
    """Returns KL(N(mean_p, variance_p) || N(mean_q, variance_q)) elementwise."""
    ratio = variance_p / variance_q
    return 0.5 * (ratio - ratio.log() + (mean_p - mean_q).square() / variance_q - 1)


def _gaussian(
    teacher: Tensor,
    student: Tensor,
    axes: tuple[int, ...],
    direction: Direction,
    epsilon: float,
    valid: Tensor | None,
    student_valid: Tensor | None,
) -> Tensor:
    mean_p, variance_p = _moments(teacher, axes, valid)
    mean_q, variance_q = _moments(student, axes, student_valid)
    variance_p, variance_q = variance_p + epsilon, variance_q + epsilon
    forward = gaussian_kl(mean_p, variance_p, mean_q, variance_q)
    if direction != "forward":
        reverse = gaussian_kl(mean_q, variance_q, mean_p, variance_p)
        forward = reverse if direction == "reverse" else 0.5 * (forward + reverse)
    return forward.flatten(1).mean(dim=1).expand(teacher.shape[0])


def _moments(features: Tensor, axes: tuple[int, ...], valid: Tensor | None) -> tuple[Tensor, Tensor]:
    if valid is None:
        return features.mean(axes, keepdim=True), features.var(axes, unbiased=False, keepdim=True)
    weight = valid.unsqueeze(-1).to(features.dtype)
    total = weight.sum(axes, keepdim=True).clamp(min=1)
    mean = (features * weight).sum(axes, keepdim=True) / total
    variance = ((features - mean).square() * weight).sum(axes, keepdim=True) / total
    return mean, variance


def _pooled(
    teacher: Tensor, student: Tensor, valid: Tensor | None, student_valid: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Returns the patch means [B, T, 1, C], standardised: one outlier channel would else take all probability."""
    mean_p, _ = _moments(teacher, (2,), valid)
    mean_q, _ = _moments(student, (2,), student_valid)
    center, variance = _moments(teacher, (1, 2), valid)
    spread = variance.sqrt() + SMALLEST_SPREAD
    return (mean_p - center) / spread, (mean_q - center) / spread


def _both(valid: Tensor | None, student_valid: Tensor | None) -> Tensor | None:
    if valid is None or student_valid is None:
        return valid if student_valid is None else student_valid
    return valid & student_valid


def _directed(log_p: Tensor, log_q: Tensor, direction: Direction, axis: int) -> Tensor:
    forward = (log_p.exp() * (log_p - log_q)).sum(axis)
    if direction == "forward":
        return forward
    reverse = (log_q.exp() * (log_q - log_p)).sum(axis)
    return reverse if direction == "reverse" else 0.5 * (forward + reverse)


def _masked_mean(values: Tensor, valid: Tensor | None, axes: tuple[int, ...]) -> Tensor:
    if valid is None:
        return values.mean(axes)
    weight = valid.to(values.dtype)
    return (values * weight).sum(axes) / weight.sum(axes).clamp(min=1)
