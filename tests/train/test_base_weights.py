"""Base weights are compared by what they hold: another model under the same path continues nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from exo2ego.errors import CheckpointError
from exo2ego.inference import load
from exo2ego.model.options import PartOptions
from exo2ego.storage import read_json
from exo2ego.train.assembly import recorded_options, require_same_architecture
from exo2ego.train.checkpoint import Checkpoint, find_checkpoint
from tests.tiny_corpus import TinyCorpus
from tests.tiny_models import tiny_options
from tests.tiny_runs import run


@pytest.fixture
def language_model(corpus: TinyCorpus, tmp_path: Path) -> Path:
    """A base language model of this test's own."""
    return Path(shutil.copytree(corpus.language_model, tmp_path / "language"))


def from_base(folder: Path, *overrides: str) -> list[str]:
    return [f"model.language_model.from_pretrained={folder}", *overrides]


def change(folder: Path) -> None:
    """Another training's weights: same names, same shapes, one tensor a little different."""
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.layers.1.mlp.up_proj.weight"] *= 1.001
    save_file(tensors, weights, metadata={"format": "pt"})


def rewrite(folder: Path) -> None:
    """The same weights in another file: order of tensors, time stamp."""
    weights = folder / "model.safetensors"
    tensors = dict(reversed(load_file(weights).items()))
    weights.unlink()
    save_file(tensors, weights, metadata={"format": "pt", "note": "copied"})


@pytest.fixture
def first(corpus: TinyCorpus, language_model: Path, tmp_path: Path) -> Path:
    """A run that stopped after two of three steps."""
    target = tmp_path / "init_ego"
    overrides = from_base(language_model, "max_steps=3", "checkpoint.every_steps=2")
    assert run("init_ego", corpus, target, *overrides) == 0
    shutil.rmtree(target / "checkpoints" / "step_00000003")
    return target


def test_what_was_loaded_is_told_and_recorded(
    corpus: TinyCorpus, language_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("init_ego", corpus, tmp_path / "a", *from_base(language_model, "max_steps=1")) == 0
    number = len(load_file(language_model / "model.safetensors"))
    said = capsys.readouterr().out
    assert f"loaded {number} / expected {number} tensors: language model from {language_model}" in said
    recorded = find_checkpoint(tmp_path / "a").record["base_weights"]
    assert list(recorded) == ["language_model"], "the tiny tower has random weights"
    assert read_json(tmp_path / "a" / "run.json")["base_weights"] == recorded
    overrides = from_base(language_model, "max_steps=1", f"parent={tmp_path / 'a'}")
    assert run("stage1", corpus, tmp_path / "b", *overrides) == 0
    trained = len(load_file(find_checkpoint(tmp_path / "a").path / "trained.safetensors"))
    assert f"loaded {trained} / expected {trained} tensors: init_ego from {tmp_path / 'a'}" in capsys.readouterr().out


def test_the_same_weights_in_another_folder_are_the_same_base(
    corpus: TinyCorpus, language_model: Path, first: Path, tmp_path: Path
) -> None:
    moved = language_model.rename(tmp_path / "moved")
    continued = from_base(moved, "max_steps=3", "checkpoint.every_steps=2")
    child = from_base(moved, "max_steps=1", f"parent={first}")
    assert run("init_ego", corpus, first, *continued, resume="auto") == 0
    assert run("stage1", corpus, tmp_path / "stage1", *child) == 0
    change(moved)
    with pytest.raises(CheckpointError, match="was trained on another language model"):
        run("stage1", corpus, tmp_path / "again", *child)
    shutil.rmtree(first / "checkpoints" / "step_00000003")
    with pytest.raises(CheckpointError, match=r"content of the base weights: .* then, .* now"):
        run("init_ego", corpus, first, *continued, resume="auto")


@pytest.mark.parametrize("touch", [change, rewrite])
def test_a_parent_and_a_continued_run_see_a_changed_base(
    corpus: TinyCorpus, language_model: Path, first: Path, tmp_path: Path, touch: Callable[[Path], None]
) -> None:
    continued = from_base(language_model, "max_steps=3", "checkpoint.every_steps=2")
    child = from_base(language_model, "max_steps=1", f"parent={first}")
    touch(language_model)
    if touch is rewrite:
        assert run("init_ego", corpus, first, *continued, resume="auto") == 0
        assert run("stage1", corpus, tmp_path / "stage1", *child) == 0
        return
    with pytest.raises(CheckpointError, match=r"content of the base weights: .* then, .* now"):
        run("init_ego", corpus, first, *continued, resume="auto")
    with pytest.raises(CheckpointError, match=r"was trained on another language model: the configured folder holds"):
        run("stage1", corpus, tmp_path / "stage1", *child)
    assert not (tmp_path / "stage1" / "checkpoints").exists()
    with pytest.raises(CheckpointError, match="was trained on another language model"):
        load(first)


def test_only_the_path_of_a_part_whose_content_is_recorded_is_free(tmp_path: Path) -> None:
    ours = tiny_options(videollama2="there/release", language_model=PartOptions(from_pretrained="there/language"))
    theirs = tiny_options(videollama2="here/release", language_model=PartOptions(from_pretrained="here/language"))
    record = {"model": recorded_options(theirs), "parts": {"mapper": True}}
    parent = Checkpoint(tmp_path, record | {"base_weights": {"connector": "a", "language_model": "b"}})
    require_same_architecture(ours, parent)
    with pytest.raises(CheckpointError, match=r"model.videollama2: .* there, None here"):
        require_same_architecture(ours.model_copy(update={"videollama2": None}), parent)
    with pytest.raises(CheckpointError, match=r"model.language_model: "):
        require_same_architecture(tiny_options(videollama2="there/release"), parent)
    for recorded, other in (({"connector": "a"}, "language_model"), ({"language_model": "b"}, "videollama2"), ({}, "")):
        with pytest.raises(CheckpointError, match=rf"model.{other}"):
            require_same_architecture(ours, Checkpoint(tmp_path, record | {"base_weights": recorded}))
