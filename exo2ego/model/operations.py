"""The operations that a cost is counted from: which are products, what they cost, and what autocast does to them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_PRODUCTS = (torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm, torch.mm, Tensor.mm)
_SUMMED_PRODUCTS = (torch.addmm, Tensor.addmm, torch.baddbmm, Tensor.baddbmm)
_CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)
_UP_CONVOLUTIONS = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
ATTENTION = functional.scaled_dot_product_attention
COUNTED = {functional.linear, ATTENTION}.union(_PRODUCTS, _SUMMED_PRODUCTS, _CONVOLUTIONS, _UP_CONVOLUTIONS)
# what torch.autocast computes in float32 on CUDA, as far as models and losses of this field use it
IN_FLOAT32 = {
    *(functional.layer_norm, functional.group_norm, functional.softmax, functional.log_softmax, torch.softmax),
    *(Tensor.softmax, torch.log_softmax, Tensor.log_softmax, torch.pow, Tensor.pow, Tensor.__pow__, torch.rsqrt),
    *(Tensor.rsqrt, torch.exp, Tensor.exp, torch.log, Tensor.log, functional.cross_entropy, functional.mse_loss),
    *(functional.l1_loss, functional.smooth_l1_loss, functional.kl_div, torch.cumsum, Tensor.cumsum, torch.sum),
    *(Tensor.sum, Tensor.norm, torch.linalg.vector_norm, functional.cosine_similarity, functional.softplus),
    *(functional.rms_norm, functional.interpolate),
}


def flops_of(func: Any, operands: Sequence[Tensor], result: Tensor | None) -> float:
    """Returns two operations per multiply-add of a product."""
    if func is ATTENTION:
        query, key, value = operands[:3]
        return 2.0 * prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])
    assert result is not None
    if func is functional.linear:
        return 2.0 * operands[0].numel() * operands[1].shape[0]
    if func in _CONVOLUTIONS:
        return 2.0 * result.numel() * operands[1][0].numel()
    if func in _UP_CONVOLUTIONS:
        return 2.0 * operands[0].numel() * operands[1][0].numel()
    if func in _SUMMED_PRODUCTS:
        return 2.0 * result.numel() * operands[1].shape[-1]
    return 2.0 * result.numel() * operands[0].shape[-1]


def factors(func: Any, operands: Sequence[Tensor]) -> Sequence[Tensor]:
    """Returns the operands whose gradients cost as much as the product itself; a bias or summand costs nothing."""
    return operands[1:] if func in _SUMMED_PRODUCTS else operands[:2]
