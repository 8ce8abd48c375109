"""Several processes are one: DDP and every ZeRO stage give the losses, gradients and weights of a single process.

Measured relative differences of four steps in float32: losses 2e-7, gradient norms 3e-7, gradients 3e-7, weights 2e-5
of the way they went. Two choices of the runs make that visible. AdamW's epsilon is 1e-5: with 1e-8 a rounding
difference of a gradient near 0 becomes a step of the other sign. The mapper has layer norm: a bias in front of an
instance norm has the gradient 0 up to rounding, and an instance norm over flat frames enlarges rounding (norms 1e-5,
once 4e-3; weights 1e-2). The same holds for the biases of CLIP's keys, which epsilon covers.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from exo2ego.train.checkpoint import find_checkpoint, load_optimizer_state
from tests.shared_data import REPOSITORY
from tests.tiny_corpus import TinyCorpus
from tests.tiny_runs import metrics, run
from tests.train.conftest import Chain

needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")

SCHEDULE = (
    "epochs=2",
    "max_steps=4",
    "batch.local_size=1",
    "checkpoint.every_steps=1",
    "checkpoint.keep_last=4",
    "optim.learning_rate=1e-5",
    "optim.epsilon=1e-5",
    "model.mapper.norm=layer",
)


@dataclass(frozen=True)
class Job:
    """A run of one stage; `name` is its folder."""

    name: str
    stage: str
    overrides: tuple[str, ...]
    resume: str | None = None


@dataclass(frozen=True)
class References:
    """The runs of every stage in one process, below `folder`."""

    corpus: TinyCorpus
    folder: Path
    jobs: tuple[Job, ...]


@pytest.fixture(scope="module")
def references(corpus: TinyCorpus, chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> References:
    folder = tmp_path_factory.mktemp("one")
    parent = f"parent={folder / 'grouped'}"
    jobs = (
        Job("init_ego", "init_ego", ()),
        # 30 samples in steps of 8: the last step runs on into the next epoch, and no process has less to do
        Job("stage1", "stage1", (f"parent={chain.init_ego}", "batch.global_size=8", "epochs=1")),
        Job("all_pairs", "stage2", (f"parent={chain.stage1}",)),
        Job("grouped", "stage2", (f"parent={chain.stage1}", "pairing=grouped")),
        Job("stage3", "stage3", (parent, "lora.dropout=0")),
        Job("bf16", "stage3", (parent, "lora.dropout=0", "precision=bf16")),
    )
    for job in jobs:
        assert run(job.stage, corpus, folder / job.name, *SCHEDULE, *job.overrides) == 0
    return References(corpus, folder, jobs)


def launch(references: References, folder: Path, jobs: list[Job]) -> str:
    """Runs jobs one after another in two processes; returns what they printed."""
    corpus = references.corpus
    paths = [str(path) for path in (corpus.root, corpus.clips, corpus.conversations, corpus.language_model)]
    rows = [
        {
            "stage": job.stage,
            "corpus": paths,
            "output_dir": str(folder / job.name),
            "overrides": [*SCHEDULE, *job.overrides],
            "resume": job.resume,
        }
        for job in jobs
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "jobs.json").write_text(json.dumps(rows), encoding="utf-8")
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    done = subprocess.run(
        [*start, "-m", "tests.train.every_stage", str(folder / "jobs.json")],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout + done.stderr


def zero(stage: int, folder: Path) -> str:
    """Returns the override for a shipped DeepSpeed file; tiny tensors are split too, where ZeRO-3 would keep them."""
    values = json.loads((REPOSITORY / "stages" / "configs" / "deepspeed" / f"zero{stage}.json").read_text())
    if stage == 3:
        values["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    path = folder / f"zero{stage}.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    return f"deepspeed={path}"


def at_step(run_dir: Path, step: int) -> Path:
    return run_dir / "checkpoints" / f"step_{step:08d}"


def weights(checkpoint: Path) -> Tensor:
    tensors = find_checkpoint(checkpoint).tensors()
    assert all(tensor.dtype == torch.float32 for tensor in tensors.values())  # master weights, with bf16 too
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def optimizer_state(checkpoint: Path) -> dict[str, Any]:
    state: dict[str, Any] = load_optimizer_state(find_checkpoint(checkpoint))["optimizer"]
    return state


def moments(checkpoint: Path, key: str) -> Tensor:
    return torch.cat([state[key].flatten() for _, state in sorted(optimizer_state(checkpoint)["state"].items())])


def assert_near(ours: Tensor, theirs: Tensor, tolerance: float, scale: Tensor | None = None) -> None:
    assert float((ours - theirs).norm()) <= tolerance * float((theirs if scale is None else scale).norm())


def assert_same_metrics(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], *, loss: float, norm: float) -> None:
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        assert mine["loss"] == pytest.approx(other["loss"], rel=loss)
        assert mine["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=norm)
        for name in ("step", "target_tokens", "sequence_tokens", "learning_rate", "unreadable"):
            assert mine[name] == other[name]


def assert_same_run(ours: Path, theirs: Path) -> None:
    assert_same_metrics(metrics(ours), metrics(theirs), loss=3e-6, norm=1e-5)
    assert weights(ours).shape == weights(theirs).shape
    way = weights(theirs) - weights(at_step(theirs, 1))
    for step in (1, 4):
        mine, other = at_step(ours, step), at_step(theirs, step)
        assert_near(moments(mine, "exp_avg"), moments(other, "exp_avg"), 3e-6)  # in step 1 the gradient itself
        assert_near(moments(mine, "exp_avg_sq"), moments(other, "exp_avg_sq"), 3e-6)
        assert_near(weights(mine), weights(other), 2e-4, scale=way)
    mine_state, other_state = optimizer_state(ours), optimizer_state(theirs)
    assert [group["params"] for group in mine_state["param_groups"]] == [
        g["params"] for g in other_state["param_groups"]
    ]
    counters = {state["step"].data_ptr() for state in mine_state["state"].values()}
    assert len(counters) == len(mine_state["state"])  # a shared one would be counted up once for every parameter
    for index, state in other_state["state"].items():
        assert float(mine_state["state"][index]["step"]) == float(state["step"]) == 4


def assert_same_bf16_run(ours: Path, theirs: Path) -> None:
    """One weight that differs in its last bit can move roundings to bf16: only step 1 must be the same to the bit."""
    mine, other = at_step(ours, 1), at_step(theirs, 1)
    assert_near(moments(mine, "exp_avg"), moments(other, "exp_avg"), 3e-6)
    assert_same_metrics(metrics(ours)[:1], metrics(theirs)[:1], loss=3e-6, norm=1e-5)
    assert_same_metrics(metrics(ours), metrics(theirs), loss=1e-4, norm=2e-2)
    way = weights(theirs) - weights(at_step(theirs, 1))
    assert_near(weights(ours), weights(theirs), 0.1, scale=way)


def assert_all_same(folder: Path, references: References) -> None:
    for job in references.jobs:
        check = assert_same_bf16_run if job.name == "bf16" else assert_same_run
        check(folder / job.name, references.folder / job.name)


def continued(references: References, name: str, origin: Path, *overrides: str) -> Job:
    """Returns the job that continues a stage-3 run of some folder after its second step."""
    job = references.jobs[-2]
    assert job.name == "stage3"
    return replace(job, name=name, overrides=(*job.overrides, *overrides), resume=str(at_step(origin / "stage3", 2)))


def assert_continued(run_dir: Path, references: References) -> None:
    original = references.folder / "stage3"
    assert_same_metrics(metrics(run_dir), metrics(original)[2:], loss=3e-6, norm=1e-5)
    assert_near(weights(run_dir), weights(original), 2e-4, scale=weights(original) - weights(at_step(original, 1)))


@pytest.mark.slow
def test_ddp_is_one_process(references: References, tmp_path: Path) -> None:
    said = launch(references, tmp_path, [*references.jobs, continued(references, "less", references.folder)])
    assert said.count("batch  2 processes x 1 clips x 4 = 8") == 1  # only the main process talks
    assert said.count("step 4/4") == len(references.jobs) + 1
    assert "do not match bucket view strides" not in said
    assert_all_same(tmp_path, references)
    assert_continued(tmp_path / "less", references)


@pytest.mark.slow
@needs_deepspeed
@pytest.mark.parametrize("stage", [2, 3])
def test_zero_is_one_process(references: References, tmp_path: Path, stage: int) -> None:
    """Every stage; ZeRO goes on from one process, from other ZeRO stages, and one process goes on from ZeRO."""
    sharded = zero(stage, tmp_path)
    jobs = [replace(job, overrides=(*job.overrides, sharded)) for job in references.jobs]
    jobs.append(continued(references, "from_one", references.folder, sharded))
    other = zero(1 if stage == 2 else 2, tmp_path)
    jobs.append(continued(references, "from_zero", tmp_path, other))
    launch(references, tmp_path, jobs)
    if stage == 3:  # a launch of its own: accelerate cannot leave DeepSpeed within a process
        launch(references, tmp_path, [continued(references, "ddp_from_zero", tmp_path)])
    assert_all_same(tmp_path, references)
    alone = continued(references, "one_from_zero", tmp_path)
    where = tmp_path / alone.name
    assert run(alone.stage, references.corpus, where, *SCHEDULE, *alone.overrides, resume=alone.resume) == 0
    for name in ("from_one", "from_zero", alone.name, *(["ddp_from_zero"] if stage == 3 else [])):
        assert_continued(tmp_path / name, references)
