"""`--dry-run` where something is missing: the prediction is shown, nothing is tried or written, faults stay faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from exo2ego.errors import CheckpointError, ConfigError
from exo2ego.storage import read_jsonl
from exo2ego.train.checkpoint import checkpoint_bytes, find_checkpoint
from exo2ego.train.journal import duration_text
from exo2ego.train.prediction import predict
from tests.conftest import RunPython
from tests.shared_data import REPOSITORY
from tests.tiny_corpus import TinyCorpus
from tests.tiny_runs import files_below, make_stage, metrics, run
from tests.train.conftest import Chain


def test_a_laptop_without_weights_data_and_network_sees_the_plan(run_python: RunPython) -> None:
    config = REPOSITORY / "stages" / "configs" / "paper" / "stage2.yaml"
    done = run_python("-m", "stages.stage2", "--config", str(config), "--dry-run")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "predicted · stage2 · Teacher-Student Guidance · from the configuration alone" in said
    assert "tokens 3,042 video + 40 text per sample, 788,992 per step" in said
    assert "flops 145.4 TFLOP per sample" in said
    assert "batch 16 GPUs x 8 clips x 2 = 256" in said
    assert "time 8,594 steps: 44.5 h on 16 x A800 (312 TFLOP/s) at 40 % MFU" in said
    assert "mistralai/Mistral-7B-Instruct-v0.2: published sizes, its configuration is not on this machine" in said
    for key in ("model.vision_tower", "model.language_model", "model.videollama2", "parent", "data.table", "data.root"):
        assert key in said.partition("not tried")[2]


def test_what_is_there_is_counted_and_what_is_missing_is_named(
    corpus: TinyCorpus, chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (f"parent={chain.stage1}", f"data.root={tmp_path / 'nowhere'}", "max_steps=null", "epochs=2")
    assert run("stage2", corpus, tmp_path / "out", *arguments, dry_run=True) == 0
    assert files_below(tmp_path) == []
    said = " ".join(capsys.readouterr().out.split())
    assert f"30 samples per epoch, counted in {corpus.clips}" in said
    assert "time 15 steps" in said
    assert "because data.root:" in said
    assert "one micro-batch" not in said


def test_a_parent_that_does_not_fit_is_an_error_before_anything_is_counted(
    corpus: TinyCorpus, chain: Chain, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"stage2 builds on stage1, but .* is of stage init_ego"):
        run("stage2", corpus, tmp_path, f"parent={chain.init_ego}", "data.root=nowhere", dry_run=True)
    with pytest.raises(CheckpointError, match=r"stage2 builds on stage1: give parent="):
        run("stage2", corpus, tmp_path, "parent=null", "data.root=nowhere", dry_run=True)


def test_a_group_that_matches_nothing_is_refused_before_anything_is_built(corpus: TinyCorpus, tmp_path: Path) -> None:
    group = "optim.groups={'model.no_such_part.*': {multiplier: 2.0}}"
    with pytest.raises(ConfigError, match="no_such_part"):
        run("init_ego", corpus, tmp_path, group, "data.root=nowhere", dry_run=True)


def test_prediction_and_run_ask_for_the_same_disk(corpus: TinyCorpus, chain: Chain) -> None:
    keep = "checkpoint={every_steps: 2, keep_last: 2, keep_every: 4}"
    found = predict(make_stage("stage2", corpus, f"parent={chain.stage1}", "max_steps=10", keep))
    trained = find_checkpoint(chain.stage2).tensors().values()
    assert found.checkpoint_bytes == checkpoint_bytes(trained)
    assert found.checkpoints_bytes == 5 * found.checkpoint_bytes  # steps 4 and 8 for good, two more, one being written


def test_every_step_of_a_run_has_its_speed_and_the_run_its_mean(
    corpus: TinyCorpus, chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (f"parent={chain.init_ego}", "max_steps=2", "hardware.peak_tflops=1")
    assert run("stage1", corpus, tmp_path / "out", *arguments) == 0
    for row in read_jsonl(tmp_path / "out" / "metrics.jsonl"):
        assert row["mfu"] == pytest.approx(row["model_tflops_per_s"])
        assert 0 < row["model_tflops_per_s"] < 1
        assert row["tokens_per_s"] == pytest.approx(row["sequence_tokens"] / row["seconds"])
    said = " ".join(capsys.readouterr().out.split())
    assert "model TFLOP/s MFU" in said
    assert "2 steps in 0.00 h:" in said
    assert len(metrics(tmp_path / "out")) == 2
    assert make_stage("stage1", corpus).config.hardware.peak_tflops is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4, "4 s"), (59.4, "59 s"), (90, "2 min"), (3600, "1 h 0 min"), (11_520, "3 h 12 min"), (190_800, "2 d 5 h")],
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
