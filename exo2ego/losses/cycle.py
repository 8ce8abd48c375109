"""Cycle consistency of the mappings F: X -> Y and G: Y -> X (Exo2Ego §4.3)."""

from __future__ import annotations

from torch import Tensor


def cycle_loss(
    start: Tensor,
    returned: Tensor,
    *,
    valid: Tensor | None = None,
    detach_target: bool = True,
    scale: Tensor | None = None,
) -> Tensor:
    """Returns |returned - start|_1 per clip [B], averaged over all elements of [B, T, L, C], float32.

    One term of L_CCL(F, G) = E_x |G(F(x)) - x|_1 + E_y |F(G(y)) - y|_1; the printed norm is a sum, the mean differs
    from it by a constant only (A11). The target is detached: else the tower could lower the loss by moving x into what
    the mappers can copy (A12). `valid` [B, T, L] leaves padding out (A17); `scale` [C] divides each channel's error.
    """
    target = start.detach() if detach_target else start
    error = (returned.float() - target.float()).abs()
    if scale is not None:
        error = error / scale
    per_patch = error.mean(dim=-1)
    if valid is None:
        return per_patch.mean(dim=(1, 2))
    weight = valid.to(per_patch.dtype)
    return (per_patch * weight).sum(dim=(1, 2)) / weight.sum(dim=(1, 2)).clamp(min=1)
