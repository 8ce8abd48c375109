"""The identity of a model's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from hashlib import _Hash


def hash_weights(model: nn.Module, digest: _Hash) -> None:
    """Adds every tensor of a model, with its name, type and shape, to a digest."""
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().flatten().contiguous().cpu().view(torch.uint8).numpy().data)
