"""Vision-grounded text generation (VTG): next-token cross-entropy on the narration or answer (Exo2Ego §4.1-4.4)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def text_loss(target_logits: Tensor, target_ids: Tensor) -> Tensor:
    """Returns the *sum* of -log p(token) over the label positions, float32 scalar.

    L_VTG = -sum_i log p(w_i | video, w_<i); logits [M, V] and ids [M] are the label positions only. The training loop
    divides by the global number of target tokens, so that accumulation and world size do not reweight short answers.
    """
    return functional.cross_entropy(target_logits.float(), target_ids, reduction="sum")
