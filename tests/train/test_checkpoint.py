"""Checkpoints on disk: complete or absent, kept by rule, and strict about what they hold and what they build on."""

from __future__ import annotations

import errno
import json
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from exo2ego import storage
from exo2ego.errors import CheckpointError
from exo2ego.storage import hash_file
from exo2ego.train import checkpoint as module
from exo2ego.train.checkpoint import (
    Checkpoint,
    checkpoint_chain,
    checkpoint_folders,
    find_checkpoint,
    open_checkpoint,
    rotate_checkpoints,
    save_checkpoint,
)
from tests.tiny_corpus import TinyCorpus
from tests.tiny_runs import files_below, in_child, run
from tests.train.conftest import Chain


def save(run_dir: Path, step: int) -> Checkpoint:
    return save_checkpoint(
        run_dir,
        record={"step": step, "stage": "stage2", "parent": None},
        trained={"weight": torch.full((1000,), float(step))},
        optimizer_state={"moment": torch.ones(2000)},
    )


def steps(run_dir: Path) -> list[int]:
    return [int(path.name.removeprefix("step_")) for path in checkpoint_folders(run_dir)]


def test_what_is_saved_is_found(tmp_path: Path) -> None:
    save(tmp_path, 2)
    save(tmp_path, 10)
    found = find_checkpoint(tmp_path)
    assert (found.step, found.stage) == (10, "stage2")
    assert torch.equal(found.tensors()["weight"], torch.full((1000,), 10.0))
    assert find_checkpoint(found.path) == found
    assert files_below(found.path) == ["checkpoint.json", "optimizer.pt", "trained.safetensors"]


def test_the_identity_is_the_weights(tmp_path: Path) -> None:
    assert save(tmp_path / "a", 1).identity == save(tmp_path / "b", 1).identity != save(tmp_path / "c", 2).identity


@pytest.mark.parametrize(
    ("keep_last", "keep_every", "kept"),
    [(1, None, [10]), (2, None, [8, 10]), (2, 4, [4, 8, 10]), (99, None, [2, 4, 6, 8, 10])],
)
def test_rotation(tmp_path: Path, keep_last: int, keep_every: int | None, kept: list[int]) -> None:
    for step in (2, 4, 6, 8, 10):
        save(tmp_path, step)
        rotate_checkpoints(tmp_path, newest_step=step, keep_last=keep_last, keep_every=keep_every)
    assert steps(tmp_path) == kept


def test_rotation_never_removes_what_was_just_written(tmp_path: Path) -> None:
    """Step 9 is damaged, the run went on from step 4: with keep_last=1 it must not lose step 5 to step 9."""
    for step in (4, 9, 5):
        save(tmp_path, step)
    rotate_checkpoints(tmp_path, newest_step=5, keep_last=1, keep_every=None)
    assert steps(tmp_path) == [5, 9]


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (module, "save_file"),
        (module.torch, "save"),
        (module, "write_json"),
        (storage, "_replace"),
        (module, "hash_file"),
    ],
)
@pytest.mark.parametrize("error_number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_failing_write_leaves_the_earlier_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error_number: int
) -> None:
    save(tmp_path, 2)
    before = files_below(tmp_path)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(error_number, "injected")

    monkeypatch.setattr(owner, name, fail)
    with pytest.raises(CheckpointError, match=r"step_00000004: the checkpoint could not be written .*--resume auto"):
        save(tmp_path, 4)
    monkeypatch.undo()
    assert files_below(tmp_path) == before
    assert find_checkpoint(tmp_path).step == 2


def test_too_little_space_is_noticed_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 2)
    usage = shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(
        CheckpointError, match=r"a checkpoint \(weights, optimiser\) needs 0.00 GB, only 0.00 GB are free"
    ):
        save(tmp_path, 4)
    assert steps(tmp_path) == [2]


@pytest.mark.parametrize(
    ("total", "every", "last", "for_good", "kept"),
    [(10, 2, 2, None, 2), (10, 2, 2, 4, 4), (3, 2, 5, None, 2), (100, 7, 1, 10, 2), (6, 2, 2, 2, 3), (1, 5, 2, 1, 1)],
)
def test_what_a_run_keeps_is_foreseen(
    tmp_path: Path, total: int, every: int, last: int, for_good: int | None, kept: int
) -> None:
    assert module.num_kept(total, every_steps=every, keep_last=last, keep_every=for_good) == kept
    most = 0
    for step in sorted({*range(every, total + 1, every), total}):
        save(tmp_path, step)
        rotate_checkpoints(tmp_path, newest_step=step, keep_last=last, keep_every=for_good)
        most = max(most, len(steps(tmp_path)))
    assert most <= kept


def test_too_little_space_for_all_that_is_kept_is_noticed_at_the_start(
    corpus: TinyCorpus, chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for two checkpoints, where three are kept and one is written."""
    size = module.checkpoint_bytes(find_checkpoint(chain.stage2).tensors().values())
    usage = shutil._ntuple_diskusage(10**9, 0, 2 * size)
    arguments = ("max_steps=6", "checkpoint.every_steps=2", f"parent={chain.stage1}")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    monkeypatch.setattr("exo2ego.train.run.build_run", lambda *_, **__: pytest.fail("it went on"))
    with pytest.raises(CheckpointError, match=r"out: room for 4 checkpoints \(those that checkpoint\.keep_last .*free"):
        run("stage2", corpus, tmp_path / "out", *arguments, "checkpoint.keep_last=3")
    assert not list((tmp_path / "out").iterdir())


def run_on_a_small_disk(corpus: TinyCorpus, run_dir: Path, parent: Path) -> None:
    """Stage 2 whose second checkpoint meets the limit, as a disk that fills up while it is written."""
    original: Callable[..., Checkpoint] = module.save_checkpoint

    def save_with_a_limit(*arguments: Any, **named: Any) -> Checkpoint:
        if named["record"]["step"] == 2:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        return original(*arguments, **named)

    from exo2ego.train import saving as saving_module

    saving_module.save_checkpoint = save_with_a_limit
    try:
        run("stage2", corpus, run_dir, "max_steps=2", "checkpoint.every_steps=1", f"parent={parent}")
    except CheckpointError as error:
        (run_dir / "said.txt").write_text(str(error), encoding="utf-8")


def test_a_disk_that_fills_up_while_saving(corpus: TinyCorpus, chain: Chain, tmp_path: Path) -> None:
    assert in_child(run_on_a_small_disk, corpus, tmp_path / "run", chain.stage1) == 0
    said = (tmp_path / "run" / "said.txt").read_text(encoding="utf-8")
    assert "step_00000002: the checkpoint could not be written" in said
    assert "earlier checkpoints are untouched: free space and continue with --resume auto" in said
    assert find_checkpoint(tmp_path / "run").step == 1
    assert not list((tmp_path / "run").rglob("*.partial-*"))
    arguments = ("max_steps=2", "checkpoint.every_steps=1", f"parent={chain.stage1}")
    assert run("stage2", corpus, tmp_path / "run", *arguments, resume="auto") == 0


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    """Changes a checkpoint's tensors and makes its record fit, as another version of the code would have written it."""
    save_file(change(load_file(str(path / "trained.safetensors"))), str(path / "trained.safetensors"))
    record = json.loads((path / "checkpoint.json").read_text(encoding="utf-8"))
    record["files"]["trained.safetensors"] = hash_file(path / "trained.safetensors")
    record["checksum"] = module._checksum(record)
    (path / "checkpoint.json").write_text(json.dumps(record), encoding="utf-8")


def without_one(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if "connector.readout.0.bias" not in name}


def with_another(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return tensors | {"model.connector.readout.7.bias": torch.zeros(3)}


def misshapen(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return tensors | {"model.connector.readout.0.bias": torch.zeros(3)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_one, r"1 tensors that stage1 trains are not in it \['model.connector.readout.0.bias'\]"),
        (with_another, r"1 tensors have no place in the model \['model.connector.readout.7.bias'\]"),
        (misshapen, r"1 have another shape \['model.connector.readout.0.bias: file \(3,\), model \(16,\)'\]"),
    ],
)
def test_missing_extra_and_misshapen_tensors(
    corpus: TinyCorpus, chain: Chain, tmp_path: Path, change: Callable[..., Any], message: str
) -> None:
    parent = Path(shutil.copytree(chain.stage1, tmp_path / "stage1"))
    rewrite(find_checkpoint(parent).path, change)
    # the copy's own parent lies where the record says
    with pytest.raises(CheckpointError, match=message):
        run("stage2", corpus, tmp_path / "out", f"parent={parent}")
    assert not (tmp_path / "out").exists()


def test_runs_that_are_moved_together_still_find_each_other(corpus: TinyCorpus, tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    assert run("init_ego", corpus, there / "init_ego", "max_steps=1") == 0
    assert run("stage1", corpus, there / "stage1", "max_steps=1", f"parent={there / 'init_ego'}") == 0
    shutil.move(there, here)
    chain = checkpoint_chain(find_checkpoint(here / "stage1"))
    assert [checkpoint.stage for checkpoint in chain] == ["init_ego", "stage1"]
    assert all(checkpoint.path.is_relative_to(here) for checkpoint in chain)


def test_a_parent_that_is_gone_or_changed(corpus: TinyCorpus, tmp_path: Path) -> None:
    assert run("init_ego", corpus, tmp_path / "init_ego", "max_steps=1") == 0
    assert run("stage1", corpus, tmp_path / "stage1", "max_steps=1", f"parent={tmp_path / 'init_ego'}") == 0
    parent = find_checkpoint(tmp_path / "init_ego").path
    rewrite(parent, lambda tensors: {name: tensor + 1 for name, tensor in tensors.items()})
    with pytest.raises(CheckpointError, match=r"its parent .*init_ego.* has other weights than when"):
        run("stage2", corpus, tmp_path / "stage2", f"parent={tmp_path / 'stage1'}")
    shutil.rmtree(tmp_path / "init_ego")
    with pytest.raises(CheckpointError, match=r"its parent .*init_ego.* is gone; .* put the parent back"):
        run("stage2", corpus, tmp_path / "stage2", f"parent={tmp_path / 'stage1'}")


@pytest.mark.parametrize(
    ("path", "message"),
    [("nowhere", "nowhere: does not exist"), ("empty", "empty: has no checkpoints; give a run folder")],
)
def test_no_checkpoint_where_one_should_be(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=message):
        find_checkpoint(tmp_path / path)


def test_another_format_is_not_guessed_at(tmp_path: Path) -> None:
    path = save(tmp_path, 1).path
    record = json.loads((path / "checkpoint.json").read_text(encoding="utf-8")) | {"format": 99}
    record["checksum"] = module._checksum(record)
    (path / "checkpoint.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(CheckpointError, match="has format 99, this version reads 2"):
        open_checkpoint(path)
