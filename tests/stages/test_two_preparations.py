"""A teacher of another architecture in the data: every video prepared for the tower that sees it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data_builders.clip_store import build
from exo2ego.data.failures import Unreadable
from exo2ego.data.pixels import SIGLIP_MEAN, SIGLIP_STD
from exo2ego.errors import ConfigError
from tests.data_builders.clip_store_corpus import options_for, run_in_place
from tests.tiny_corpus import TinyCorpus
from tests.tiny_runs import batch_of, make_stage, prepare_orphan

SIDE, PATCH = 40, 8
SIGLIP = (
    "model_type: siglip_vision_model, hidden_size: 24, intermediate_size: 32, num_hidden_layers: 2, "
    f"num_attention_heads: 2, image_size: {SIDE}, patch_size: {PATCH}"
)
TEACHER = (
    f"model.teacher_tower={{architecture: {{{SIGLIP}}}}}",
    "model.teacher_init=base",
    "model.connector.sharing=per_branch",
)


def test_a_batch_holds_two_sizes_two_normalisations_and_two_masks(corpus: TinyCorpus) -> None:
    prepared = prepare_orphan("stage2", corpus, *TEACHER)
    batch = batch_of(prepared, range(2))
    assert batch.exo_pixels is not None
    assert batch.exo_patch_mask is not None
    assert (batch.pixels.shape[2:], batch.exo_pixels.shape[3:]) == ((3, 32, 32), (3, SIDE, SIDE))
    assert batch.patch_mask.shape == (2, 8 * 8)
    assert batch.patch_mask.all(), "the ego videos are square"
    # 112 x 64 in 40 x 40 px: rows 0 to 8 and 32 to 40 are padding
    grid = batch.exo_patch_mask.unflatten(-1, (5, 5))
    assert grid.all(dim=-1)[0, 0].tolist() == [False, True, True, True, False]
    assert float(batch.exo_pixels.abs().max()) <= 1, "from -1 to 1, as SigLIP wants them"
    assert prepared.processor.exo_pictures == {
        "image_size": SIDE,
        "patch_size": PATCH,
        "image_mean": SIGLIP_MEAN,
        "image_std": SIGLIP_STD,
    }


@pytest.mark.parametrize("kind", ["gaussian", "softmax_space"])
def test_the_losses_leave_out_the_padding_of_each_side(corpus: TinyCorpus, kind: str) -> None:
    """What y shows in its padding changes neither KL nor F(G(y))'s error; the padding itself is not part of any."""
    prepared = prepare_orphan("stage2", corpus, *TEACHER, f"loss.kl.kind={kind}", "model.mapper.kind=fc")
    batch, model = batch_of(prepared, range(2)), prepared.model.eval()
    with torch.no_grad():
        output = model(
            input_ids=batch.input_ids,
            labels=batch.labels,
            pixel_values_videos=batch.pixels,
            exo_pixel_values_videos=batch.exo_pixels,
            cycle="both",
        )
        stage = prepared.stage
        before = [stage._divergence(output, batch), stage._cycle(output, batch)]
        padding = ~batch.exo_patch_mask
        output.exo_features[padding.unsqueeze(2).expand(output.exo_features.shape[:4])] += 100
        after = [stage._divergence(output, batch), stage._cycle(output, batch)]
    for first, second in zip(before, after, strict=True):
        assert float(first.total) > 0
        torch.testing.assert_close(first.total, second.total)


def test_a_blank_stands_in_for_both(corpus: TinyCorpus) -> None:
    prepared = prepare_orphan("stage2", corpus, *TEACHER)
    fault = Unreadable("take0/0/0", "gone.mp4", "missing", "no such file")
    batch = prepared.collate([fault])
    assert batch.exo_pixels is not None
    assert (batch.pixels.shape[2:], batch.exo_pixels.shape[3:]) == ((3, 32, 32), (3, SIDE, SIDE))
    assert prepared.stage.losses(prepared.model, batch)["kl"].total == 0


def test_errors_by_the_teachers_spread_need_its_channels(corpus: TinyCorpus) -> None:
    prepared = prepare_orphan("stage2", corpus, *TEACHER, "loss.cycle.normalize=teacher_std")
    with pytest.raises(ConfigError, match="x has 16 channels and the teacher 24: set normalize=none"):
        prepared.stage.losses(prepared.model, batch_of(prepared, range(2)))


def test_a_clip_store_must_fit_both_towers(corpus: TinyCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    run_in_place(monkeypatch)
    store = tmp_path / "store"
    build.build(options_for(corpus.root, corpus.clips, store, num_frames=2, image_size=32))
    prepare_orphan("init_ego", corpus, *TEACHER, f"data.clip_store={store}")
    with pytest.raises(ConfigError, match=f"image size: 32 there, {SIDE} wanted"):
        prepare_orphan("stage2", corpus, *TEACHER, f"data.clip_store={store}")


def test_stage1_sees_the_teachers_pictures_alone(corpus: TinyCorpus) -> None:
    batch = batch_of(prepare_orphan("stage1", corpus, *TEACHER), range(2))
    assert batch.exo_pixels is None
    assert (batch.pixels.shape[3:], batch.patch_mask.shape[1]) == ((SIDE, SIDE), 25)
    assert make_stage("stage1", corpus, *TEACHER).view == "exo"
