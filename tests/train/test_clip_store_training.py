"""Every stage trains from a clip store without the videos, on the same samples; a run never changes between the two."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data_builders.clip_store import build
from exo2ego.errors import CheckpointError, ConfigError
from tests.data_builders.clip_store_corpus import options_for, run_in_place
from tests.tiny_corpus import TinyCorpus
from tests.tiny_runs import batch_of, prepare_orphan, run


@pytest.fixture(scope="module")
def stores(corpus: TinyCorpus, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A store of the clip table and one of the conversations."""
    made = tmp_path_factory.mktemp("stores")
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        run_in_place(patch)
        for name, table in (("clips", corpus.clips), ("conversations", corpus.conversations)):
            build.build(options_for(corpus.root, table, made / name, num_frames=2, image_size=32))
    return {name: made / name for name in ("clips", "conversations")}


@pytest.mark.parametrize("stage", ["init_ego", "stage1", "stage2", "stage3"])
def test_batches_are_those_of_the_videos(stage: str, corpus: TinyCorpus, stores: dict[str, Path]) -> None:
    store = stores["conversations" if stage == "stage3" else "clips"]
    stored = batch_of(prepare_orphan(stage, corpus, f"data.clip_store={store}", "data.root=gone"), range(3))
    read = batch_of(prepare_orphan(stage, corpus), range(3))
    assert stored.sample_ids == read.sample_ids
    assert len(read.sample_ids) == 3
    assert torch.equal(stored.input_ids, read.input_ids)
    assert torch.equal(stored.patch_mask, read.patch_mask)
    assert float((stored.pixels - read.pixels).abs().mean()) < 0.1
    assert (stored.exo_pixels is None) == (read.exo_pixels is None)
    if stored.exo_pixels is not None and read.exo_pixels is not None:
        assert stored.exo_pixels.shape == read.exo_pixels.shape
        assert float((stored.exo_pixels - read.exo_pixels).abs().mean()) < 0.1


def test_a_run_from_the_store_is_not_continued_from_the_videos(
    corpus: TinyCorpus, stores: dict[str, Path], tmp_path: Path
) -> None:
    store = f"data.clip_store={stores['clips']}"
    with pytest.raises(ConfigError, match="frames per clip: 2 there, 4 wanted"):
        run("init_ego", corpus, tmp_path / "run", store, "model.num_frames=4")
    assert run("init_ego", corpus, tmp_path / "run", "max_steps=2", store, "data.root=gone") == 0
    with pytest.raises(CheckpointError, match=r"content of data\.clip_store"):
        run("init_ego", corpus, tmp_path / "run", "max_steps=2", resume="auto")
    assert run("init_ego", corpus, tmp_path / "run", "max_steps=2", store, resume="auto") == 0
