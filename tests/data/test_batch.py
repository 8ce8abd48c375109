"""Batches: padding, views of uneven number, unreadable samples, and counts that the loss is divided by."""

from __future__ import annotations

import pickle

import pytest
import torch

from exo2ego.data.batch import Batch, Collator, TrainingSample
from exo2ego.data.datasets import blank_sample
from exo2ego.data.failures import Unreadable
from exo2ego.data.processor import Exo2EgoProcessor
from exo2ego.losses.cycle import cycle_loss
from exo2ego.losses.divergence import divergence_loss
from exo2ego.model.tokens import IGNORED
from tests.tiny_models import tiny_tokenizer

PAD, T, SIZE, PATCHES = 0, 2, 16, 4
PROCESSOR = Exo2EgoProcessor(tiny_tokenizer(), {"ego": 5, "exo": 3}, num_frames=T, image_size=SIZE, patch_size=8)


def sample(number: int, num_targets: int, num_views: int = 0) -> TrainingSample:
    generator = torch.Generator().manual_seed(number)

    def pixels(*leading: int) -> torch.Tensor:
        return torch.randn((*leading, T, 3, SIZE, SIZE), generator=generator)

    return TrainingSample(
        sample_id=f"clip {number}",
        prompt_ids=[1, 3, 3],
        target_ids=[10 + number] * num_targets,
        pixels=pixels(),
        patch_mask=torch.tensor([True, True, False, False]),
        exo_pixels=pixels(num_views) if num_views else None,
        exo_patch_mask=torch.tensor([[True, False, False, True]] * num_views) if num_views else None,
    )


def collator(*, with_exo: bool = False) -> Collator:
    return Collator(PAD, blank_sample(PROCESSOR, "ego", with_exo=with_exo))


def unreadable(number: int) -> Unreadable:
    return Unreadable(f"clip {number}", "a.mp4", "missing", "is gone")


def test_texts_are_padded_on_the_right_and_only_targets_count() -> None:
    batch = collator()([sample(0, 1), sample(1, 3)])
    assert batch.input_ids.tolist() == [[1, 3, 3, 10, PAD, PAD], [1, 3, 3, 11, 11, 11]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]]
    assert batch.labels.tolist() == [[IGNORED] * 3 + [10, IGNORED, IGNORED], [IGNORED] * 3 + [11, 11, 11]]
    assert (batch.num_targets, batch.num_clips) == (4, 2)
    assert batch.sample_ids == ["clip 0", "clip 1"]
    assert torch.equal(batch.pixels[1], sample(1, 3).pixels)
    assert batch.exo_pixels is None


def test_unreadable_samples_are_left_out_and_reported() -> None:
    batch = collator()([unreadable(0), sample(1, 2), unreadable(2)])
    assert batch.sample_ids == ["clip 1"]
    assert batch.failures == [unreadable(0), unreadable(2)]
    assert (batch.num_targets, batch.num_clips) == (2, 1)


@pytest.mark.parametrize("with_exo", [False, True])
def test_a_blank_of_weight_zero_where_nothing_is_readable(with_exo: bool) -> None:
    batch = collator(with_exo=with_exo)([unreadable(0), unreadable(1)])
    assert (batch.num_targets, batch.num_clips) == (0, 0)
    assert batch.clip_weight.tolist() == [0.0]
    assert (batch.labels == IGNORED).all()
    assert len(batch.failures) == 2
    assert (batch.input_ids == PROCESSOR.video_token_id).sum() == PROCESSOR.num_video_tokens["ego"]
    assert batch.pixels.shape == (1, T, 3, SIZE, SIZE)
    assert batch.patch_mask.shape == (1, PATCHES)
    if with_exo:
        assert batch.exo_pixels is not None
        assert batch.exo_pixels.shape == (1, 1, T, 3, SIZE, SIZE)


def test_the_blank_leaves_the_next_batch_alone() -> None:
    collate = collator()
    collate([unreadable(0)])
    assert collate([sample(1, 2)]).num_targets == 2
    assert collate([unreadable(2)]).num_clips == 0


def test_views_of_uneven_number_are_padded_with_weight_zero() -> None:
    batch = collator(with_exo=True)([sample(0, 1, num_views=1), sample(1, 1, num_views=4)])
    assert batch.exo_pixels is not None
    assert batch.exo_patch_mask is not None
    assert batch.view_weight is not None
    assert batch.exo_pixels.shape == (2, 4, T, 3, SIZE, SIZE)
    assert batch.view_weight.tolist() == [[1, 0, 0, 0], [0.25] * 4]
    assert not batch.exo_pixels[0, 1:].any()
    assert not batch.exo_patch_mask[0, 1:].any(), "no statistic over the batch may see a view that is padding"
    assert batch.exo_patch_mask[1].tolist() == [[True, False, False, True]] * 4
    expected = sample(1, 1, num_views=4).exo_pixels
    assert expected is not None
    assert torch.equal(batch.exo_pixels[1], expected)


@pytest.mark.parametrize(
    "kind", ["gaussian", "gaussian_clip", "gaussian_batch", "softmax", "softmax_pooled", "softmax_space"]
)
def test_padded_views_add_nothing_to_the_losses(kind: str) -> None:
    """The weighted sum over the views of a clip is the same beside a clip with more views."""
    generator = torch.Generator().manual_seed(0)
    y, fx = (torch.randn((1, 2, T, PATCHES, 3), generator=generator) for _ in range(2))
    found = []
    for num_views in (2, 4):
        padded = torch.cat((y, torch.zeros(1, num_views - 2, T, PATCHES, 3)), dim=1).flatten(0, 1)
        student = torch.cat((fx, fx.new_ones(1, num_views - 2, T, PATCHES, 3)), dim=1).flatten(0, 1)
        weight = torch.tensor([0.5, 0.5, 0.0, 0.0])[:num_views]
        valid = (weight > 0).view(-1, 1, 1).expand(-1, T, PATCHES)
        kl = divergence_loss(padded, student, kind=kind, valid=valid, student_valid=valid)  # type: ignore[arg-type]
        cycle = cycle_loss(padded, student, valid=valid)
        found.append(((kl * weight).sum(), (cycle * weight).sum()))
    torch.testing.assert_close(found[0], found[1])


def test_moving_keeps_everything() -> None:
    batch = collator(with_exo=True)([sample(0, 1, num_views=2), unreadable(1)])
    moved = batch.to(torch.device("cpu"))
    assert vars(moved).keys() == vars(batch).keys()
    assert moved.failures == batch.failures
    on_meta = batch.to(torch.device("meta"))
    assert {value.device.type for value in vars(on_meta).values() if isinstance(value, torch.Tensor)} == {"meta"}


def test_workers_can_send_batches() -> None:
    batch: Batch = pickle.loads(pickle.dumps(collator()([sample(0, 2), unreadable(1)])))
    assert (batch.num_targets, batch.failures) == (2, [unreadable(1)])
