"""One batch of training samples, and how samples become one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from exo2ego.data.failures import Unreadable
from exo2ego.model.tokens import IGNORED


@dataclass(frozen=True)
class TrainingSample:
    """One clip with its text, as a loader worker makes it."""

    sample_id: str
    prompt_ids: list[int]
    """BOS, placeholders and prompt: no loss."""
    target_ids: list[int]
    """Narration or answer and EOS: loss."""
    pixels: Tensor
    """[T, 3, S, S] float32 of the view that the language model sees."""
    patch_mask: Tensor
    """[L] bool, true where a patch shows the video and not padding."""
    exo_pixels: Tensor | None = None
    """[K, T, 3, S, S] float32, stage 2 only; S and L are the teacher's, where it is another tower."""
    exo_patch_mask: Tensor | None = None
    """[K, L] bool"""


@dataclass
class Batch:
    """A micro-batch: B clips, K exo views (missing ones have weight 0), S tokens, T frames, L patches per frame."""

    input_ids: Tensor
    """[B, S]"""
    attention_mask: Tensor
    """[B, S]"""
    labels: Tensor
    """[B, S], -100 where there is no loss."""
    pixels: Tensor
    """[B, T, 3, S, S]"""
    patch_mask: Tensor
    """[B, L] bool"""
    clip_weight: Tensor
    """[B], 1 for a clip and 0 for the blank that stands in where every sample of a micro-batch was unreadable."""
    exo_pixels: Tensor | None = None
    """[B, K, T, 3, S, S]"""
    exo_patch_mask: Tensor | None = None
    """[B, K, L] bool, false everywhere in a view that is padding"""
    view_weight: Tensor | None = None
    """[B, K], 1 / (number of views) for a view and 0 for padding."""
    sample_ids: list[str] = field(default_factory=list)
    failures: list[Unreadable] = field(default_factory=list)

    @property
    def num_targets(self) -> int:
        """Returns the number of tokens with loss."""
        return int((self.labels[:, 1:] != IGNORED).sum())

    @property
    def num_clips(self) -> int:
        """Returns the number of real clips."""
        return int(self.clip_weight.sum())

    def to(self, device: torch.device) -> Batch:
        """Returns the batch on `device`."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def pin_memory(self) -> Batch:
        """Returns the batch in page-locked memory, without which `to` waits for the GPU; needs CUDA."""
        pinned: dict[str, Any] = {
            name: value.pin_memory() for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **pinned)


class Collator:
    """Pads samples to a batch; unreadable ones are left out and reported with it."""

    def __init__(self, pad_token_id: int, blank: TrainingSample) -> None:
        self.pad_token_id = pad_token_id
        self.blank = blank

    def __call__(self, items: list[TrainingSample | Unreadable]) -> Batch:
        """Returns the batch of the readable samples, or a blank clip of weight 0 where none is readable.

        Every process must run the same modules in every step: a process without a batch would stop the others.
        """
        samples = [item for item in items if isinstance(item, TrainingSample)]
        failures = [item for item in items if isinstance(item, Unreadable)]
        weight = 1.0 if samples else 0.0
        samples = samples or [self.blank]
        batch = self._text(samples)
        if not weight:
            batch.labels.fill_(IGNORED)
        batch.clip_weight.fill_(weight)
        batch.failures = failures
        if samples[0].exo_pixels is not None:
            self._add_exo(batch, samples)
        return batch

    def _text(self, samples: list[TrainingSample]) -> Batch:
        length = max(len(sample.prompt_ids) + len(sample.target_ids) for sample in samples)
        input_ids = torch.full((len(samples), length), self.pad_token_id)
        labels = torch.full((len(samples), length), IGNORED)
        attention_mask = torch.zeros((len(samples), length), dtype=torch.long)
        for row, sample in enumerate(samples):
            start, end = len(sample.prompt_ids), len(sample.prompt_ids) + len(sample.target_ids)
            input_ids[row, :end] = torch.tensor(sample.prompt_ids + sample.target_ids)
            labels[row, start:end] = torch.tensor(sample.target_ids)
            attention_mask[row, :end] = 1
        return Batch(
            input_ids=input_ids,
            attention_mask=attention_mask,
            labels=labels,
            pixels=torch.stack([sample.pixels for sample in samples]),
            patch_mask=torch.stack([sample.patch_mask for sample in samples]),
            clip_weight=torch.ones(len(samples)),
            sample_ids=[sample.sample_id for sample in samples],
        )

    @staticmethod
    def _add_exo(batch: Batch, samples: list[TrainingSample]) -> None:
        views = [sample.exo_pixels for sample in samples if sample.exo_pixels is not None]
        masks = [sample.exo_patch_mask for sample in samples if sample.exo_patch_mask is not None]
        most = max(len(view) for view in views)
        batch.exo_pixels = views[0].new_zeros((len(views), most, *views[0].shape[1:]))
        batch.exo_patch_mask = masks[0].new_zeros((len(views), most, masks[0].shape[1]))
        batch.view_weight = torch.zeros((len(views), most))
        for row, (view, mask) in enumerate(zip(views, masks, strict=True)):
            batch.exo_pixels[row, : len(view)] = view
            batch.exo_patch_mask[row, : len(view)] = mask
            batch.view_weight[row, : len(view)] = 1 / len(view)
