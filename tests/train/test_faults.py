"""What must not pass in silence: losses that are not finite, nothing to learn, unreadable videos, unfit inputs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from exo2ego.data.batch import Batch
from exo2ego.errors import CheckpointError, DataError, Exo2EgoError, TrainingError
from exo2ego.model.tokens import IGNORED
from exo2ego.storage import read_jsonl
from exo2ego.train.loop import TrainingRun, train
from exo2ego.train.objective import Term, Terms
from exo2ego.train.processes import start_accelerator
from exo2ego.train.run import build_run
from tests.tiny_corpus import TinyCorpus, write_clips
from tests.tiny_runs import metrics, prepare_orphan, run
from tests.train.conftest import Chain

FaultyLosses = Callable[[Terms, int], Terms]


def built(corpus: TinyCorpus, change: FaultyLosses) -> TrainingRun:
    """A run of stage 2 whose losses are changed; `change` gets the number of the micro-batch, from 0."""
    prepared = prepare_orphan("stage2", corpus, "max_steps=4", "batch.global_size=4", "batch.local_size=2")
    made = build_run(prepared, start_accelerator(prepared.stage.config), None, run_dir=None)
    calls: list[int] = []

    def losses(model: torch.nn.Module, batch: Batch) -> Terms:
        calls.append(0)
        return change(prepared.stage.losses(model, batch), len(calls) - 1)

    return TrainingRun(**{**vars(made), "losses": losses})


def weights(run: TrainingRun) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in run.updater.model.named_parameters()}


def with_nan_loss(terms: Terms, number: int) -> Terms:
    bad = Term(terms["kl"].total * float("nan"), per="clip")
    return terms | ({"kl": bad} if number == 3 else {})


def with_infinite_loss(terms: Terms, number: int) -> Terms:
    bad = Term(terms["text"].total + float("inf"), per="target_token")
    return terms | ({"text": bad} if number == 3 else {})


def with_nan_gradient(terms: Terms, number: int) -> Terms:
    """The loss is finite, its gradient is 0 / 0: sqrt at 0."""
    kl = terms["kl"].total
    bad = Term(kl + (kl - kl).abs().sqrt(), per="clip")
    return terms | ({"kl": bad} if number == 3 else {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_nan_loss, r"step 2: {'loss': nan, 'loss/kl': nan, 'gradient_norm': nan}: not finite"),
        (with_infinite_loss, r"step 2: {'loss': inf, 'loss/text': inf.*not finite"),
        (
            with_nan_gradient,
            r"step 2: {'gradient_norm': nan}: not finite .*The losses are finite, .* 4 samples, the first: \['take",
        ),
    ],
)
def test_a_step_that_is_not_finite_changes_nothing(corpus: TinyCorpus, change: FaultyLosses, message: str) -> None:
    made = built(corpus, change)
    states: list[tuple[dict[str, Tensor], dict[str, Any], int]] = []
    apply = made.updater.apply
    optimizer = made.updater.optimizer

    def apply_and_note() -> None:
        apply()
        states.append((weights(made), {k: v.clone() for k, v in moments(optimizer).items()}, len(states)))

    made.updater.apply = apply_and_note  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=message):
        train(made)
    assert len(states) == 1  # step 1
    assert all(torch.equal(value, states[0][0][name]) for name, value in weights(made).items())
    assert all(torch.equal(value, states[0][1][name]) for name, value in moments(optimizer).items())


def moments(optimizer: Any) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{index}.{key}": value for index, values in state.items() for key, value in values.items()}


def test_the_message_names_the_samples_at_fault_and_only_those(corpus: TinyCorpus) -> None:
    made = built(corpus, with_nan_loss)
    fourth = list(made.batches)[3].sample_ids
    with pytest.raises(TrainingError) as fault:
        train(made)
    assert f"Samples of the micro-batches at fault: {fourth}." in str(fault.value)


def test_a_nan_on_the_command_line_keeps_the_checkpoint(
    corpus: TinyCorpus, chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.stage2 import Stage2

    losses = Stage2.losses
    monkeypatch.setattr(Stage2, "losses", lambda stage, model, batch: with_nan_loss(losses(stage, model, batch), 3))
    with pytest.raises(TrainingError, match=r"no weight was changed.*run has no good checkpoint yet$"):
        run("stage2", corpus, tmp_path / "run", "max_steps=2", f"parent={chain.stage1}")
    assert metrics(tmp_path / "run") == []
    monkeypatch.undo()
    arguments = ("max_steps=2", f"parent={chain.stage1}")
    assert run("stage2", corpus, tmp_path / "run", *arguments, resume="auto") == 0


def test_a_step_without_a_target(corpus: TinyCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    made = built(corpus, lambda terms, number: terms)
    batches = list(made.batches)
    for batch in batches[2:4]:
        batch.labels.fill_(IGNORED)
    with pytest.raises(TrainingError, match=r"step 2: no sample has a token to learn; samples \['take"):
        train(TrainingRun(**{**vars(made), "batches": batches}))


@pytest.fixture
def broken_videos(corpus: TinyCorpus, tmp_path: Path) -> Path:
    """The corpus's videos, the ego video of take 0 cut in half."""
    videos = Path(shutil.copytree(corpus.root, tmp_path / "videos"))
    half = videos / "take0_aria.mp4"
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    return videos


def test_unreadable_videos_are_counted_and_listed(
    corpus: TinyCorpus, chain: Chain, broken_videos: Path, tmp_path: Path
) -> None:
    arguments = (f"data.root={broken_videos}", "data.max_failure_rate=0.9", f"parent={chain.stage2}")
    assert run("stage3", corpus, tmp_path / "run", *arguments, "max_steps=3") == 0
    rows = metrics(tmp_path / "run")
    failures = list(read_jsonl(tmp_path / "run" / "failures.jsonl"))
    assert rows[-1]["unreadable"] == len(failures) == 6
    assert sorted(row["sample_id"] for row in failures) == [f"take0/0/{number}" for number in range(6)]
    assert {Path(row["path"]).name for row in failures} == {"take0_aria.mp4"}


def test_too_many_unreadable_videos_stop_the_run(
    corpus: TinyCorpus, chain: Chain, broken_videos: Path, tmp_path: Path
) -> None:
    arguments = (f"data.root={broken_videos}", "data.max_failure_rate=0.003", f"parent={chain.stage2}")
    with pytest.raises(
        DataError, match=r"more than data.max_failure_rate=0.003 allows; .*take0_aria.mp4.*failures.jsonl"
    ):
        run("stage3", corpus, tmp_path / "run", *arguments, "epochs=3", "max_steps=null")
    assert 4 <= len(list(read_jsonl(tmp_path / "run" / "failures.jsonl"))) <= 6


def test_a_step_without_a_readable_video(corpus: TinyCorpus, chain: Chain, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    arguments = (f"data.root={tmp_path / 'videos'}", "data.max_failure_rate=1", f"parent={chain.stage2}")
    with pytest.raises(TrainingError, match=r"step 1: none of its 4 videos can be read, see failures.jsonl"):
        run("stage3", corpus, tmp_path / "run", *arguments)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_text_that_is_too_long_is_one_clear_line(
    corpus: TinyCorpus, chain: Chain, tmp_path: Path, num_workers: int
) -> None:
    arguments = ("data.max_text_tokens=9", f"parent={chain.stage2}", f"data.num_workers={num_workers}")
    with pytest.raises(DataError) as fault:
        run("stage3", corpus, tmp_path / "run", *arguments)
    assert str(fault.value).startswith("sample take")
    assert str(fault.value).endswith("data.max_text_tokens is 9; raise it or remove the sample")
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    ("name", "parent", "message"),
    [
        ("stage3", "stage1", 'stage3 builds on stage2, but .* is of stage stage1; .* says "stage": "stage2"'),
        ("stage2", "stage2", 'stage2 builds on stage1, but .* is of stage stage2; .* says "stage": "stage1"'),
        ("stage1", "stage2", 'stage1 builds on init_ego, but .* is of stage stage2; .* says "stage": "init_ego"'),
    ],
)
def test_a_parent_of_the_wrong_stage(
    corpus: TinyCorpus, chain: Chain, tmp_path: Path, name: str, parent: str, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        run(name, corpus, tmp_path / "out", f"parent={getattr(chain, parent)}")
    assert not (tmp_path / "out").exists()


def test_no_parent_at_all(corpus: TinyCorpus, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="stage2 builds on stage1: give parent=RUN_FOLDER of that stage"):
        run("stage2", corpus, tmp_path / "out", "parent=null")


def test_another_architecture(corpus: TinyCorpus, chain: Chain, tmp_path: Path) -> None:
    changes = ("model.num_frames=4", "model.connector.depth=2", "model.mapper.width=12")
    with pytest.raises(CheckpointError) as refusal:
        run("stage2", corpus, tmp_path / "out", f"parent={chain.stage1}", *changes)
    said = str(refusal.value)
    assert "model.num_frames: 2 there, 4 here" in said
    assert "model.connector: " in said
    assert "model.mapper" not in said  # no stage has trained one yet
    with pytest.raises(CheckpointError, match=r"model\.mapper: "):
        run("stage3", corpus, tmp_path / "out", f"parent={chain.stage2}", "model.mapper.width=12")


def test_an_unfinished_parent_is_said(
    corpus: TinyCorpus, chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    middle = tmp_path / "init_ego"
    assert run("init_ego", corpus, middle, "max_steps=3", "checkpoint.every_steps=1") == 0
    earlier = middle / "checkpoints" / "step_00000002"
    assert run("stage1", corpus, tmp_path / "stage1", "max_steps=1", f"parent={earlier}") == 0
    assert "UNFINISHED: step 2 of 3" in " ".join(capsys.readouterr().out.split())


def empty_table(corpus: TinyCorpus, folder: Path) -> str:
    write_clips(folder / "clips.parquet", [])
    return f"data.table={folder / 'clips.parquet'}"


def half_a_line(corpus: TinyCorpus, folder: Path) -> str:
    path = folder / "half.jsonl"
    path.write_text(corpus.conversations.read_text(encoding="utf-8")[:-40], encoding="utf-8")
    return f"data.table={path}"


def not_a_conversation(corpus: TinyCorpus, folder: Path) -> str:
    path = folder / "other.jsonl"
    path.write_text('{"id": "1", "source": "x", "video": "v.mp4"}\n', encoding="utf-8")
    return f"data.table={path}"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("stage3", lambda corpus, folder: "data.root=/nowhere", "/nowhere: data.root is not a folder; give the folder"),
        ("stage3", lambda corpus, folder: "data.table=/nowhere.jsonl", "/nowhere.jsonl: data.table does not exist"),
        ("stage3", lambda corpus, folder: f"data.table={corpus.root}/take0_aria.mp4", "cannot be read as a clip table"),
        ("stage3", half_a_line, "line 12 of the conversation table is not valid JSON"),
        ("stage3", not_a_conversation, "conversation 1 is not an EgoIT record: answer: Field required"),
        ("stage2", empty_table, "data.table is empty"),
        ("stage2", lambda corpus, folder: f"data.table={corpus.conversations}", "stage2 needs exocentric videos"),
    ],
)
def test_unfit_inputs_are_refused_before_a_model_is_built(
    corpus: TinyCorpus,
    chain: Chain,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    change: Callable[[TinyCorpus, Path], str],
    message: str,
) -> None:
    monkeypatch.setattr("exo2ego.train.preparation.assemble", lambda *_: pytest.fail("a model was built"))
    parent = chain.stage2 if name == "stage3" else chain.stage1
    with pytest.raises(Exo2EgoError, match=message):
        run(name, corpus, tmp_path / "out", f"parent={parent}", change(corpus, tmp_path))
    assert not (tmp_path / "out").exists()
