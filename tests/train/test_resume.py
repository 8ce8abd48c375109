"""A run that is killed anywhere and continued is the run that was never killed; no other run is continued."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from exo2ego.errors import CheckpointError
from exo2ego.storage import read_json, read_jsonl
from exo2ego.train import checkpoint
from exo2ego.train import saving as saving_module
from exo2ego.train.checkpoint import find_checkpoint, load_optimizer_state
from exo2ego.train.journal import Journal
from tests.tiny_corpus import TinyCorpus
from tests.tiny_runs import files_below, in_child, metrics, run, trained
from tests.train.conftest import Chain

# 12 clips in batches of 4 for two epochs: 6 steps, a checkpoint in the middle of either epoch and one between them
SCHEDULE = ("epochs=2", "max_steps=null", "checkpoint.every_steps=2", "checkpoint.keep_last=2")
STAGE_2 = ("stage2", "stage1", (*SCHEDULE, "pairing=one_view"))
STAGE_3 = ("stage3", "stage2", (*SCHEDULE, "lora.dropout=0.3"))
INIT_EGO = ("init_ego", "", SCHEDULE)
STAGE_1 = ("stage1", "init_ego", (*SCHEDULE, "max_steps=6"))
STAGE_2_PAIRS = ("stage2", "stage1", (*SCHEDULE, "pairing=all_pairs", "max_steps=6"))
STAGE_2_GROUPED = ("stage2", "stage1", (*SCHEDULE, "pairing=grouped"))
Case = tuple[str, str, tuple[str, ...]]


def arguments_for(case: Case, chain: Chain) -> tuple[str, ...]:
    return (*case[2], f"parent={getattr(chain, case[1])}") if case[1] else case[2]


def kill_self(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_after_recording(step_to_die: int) -> None:
    record = Journal.record

    def record_and_die(journal: Journal, step: int, values: dict[str, float]) -> None:
        record(journal, step, values)
        if step == step_to_die:
            kill_self()

    Journal.record = record_and_die  # type: ignore[method-assign]


def kill_at_second_call(owner: Any, name: str) -> None:
    original: Callable[..., Any] = getattr(owner, name)
    calls = []

    def counted(*arguments: Any, **named: Any) -> Any:
        calls.append(name)
        if len(calls) == 2:
            kill_self()
        return original(*arguments, **named)

    setattr(owner, name, counted)


KILLS: dict[str, Callable[[], None]] = {
    "in the first step": lambda: kill_after_recording(1),
    "between checkpoints": lambda: kill_after_recording(3),
    "in the next epoch": lambda: kill_after_recording(5),
    "while the optimiser state is written": lambda: kill_at_second_call(checkpoint.torch, "save"),
    "before the checkpoint gets its name": lambda: kill_at_second_call(checkpoint, "write_json"),
    "before old checkpoints go": lambda: kill_at_second_call(saving_module, "rotate_checkpoints"),
}


def run_and_die(kill: str, name: str, corpus: TinyCorpus, run_dir: Path, overrides: tuple[str, ...]) -> None:
    KILLS[kill]()
    run(name, corpus, run_dir, *overrides)


def continue_and_die(*arguments: Any) -> None:
    name, corpus, run_dir, overrides, resume = arguments
    kill_after_recording(3)
    run(name, corpus, run_dir, *overrides, resume=resume)


@pytest.fixture(scope="module")
def uninterrupted(corpus: TinyCorpus, chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Finished runs of stages 2 and 3."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    for case in (STAGE_2, STAGE_3):
        assert run(case[0], corpus, folder / case[0], *arguments_for(case, chain)) == 0
    return {case[0]: folder / case[0] for case in (STAGE_2, STAGE_3)}


@pytest.fixture(scope="module")
def half(corpus: TinyCorpus, chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of stage 2 that was killed after step 5: checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("half") / "stage2"
    arguments = ("stage2", corpus, folder, arguments_for(STAGE_2, chain))
    assert in_child(run_and_die, "in the next epoch", *arguments) == -signal.SIGKILL
    return folder


@pytest.fixture
def half_copy(half: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(half, tmp_path / "stage2"))


def without_logs(folder: Path) -> list[str]:
    return [name for name in files_below(folder) if not name.startswith("tensorboard")]


def assert_same_runs(ours: Path, theirs: Path, num_steps: int = 6) -> None:
    assert metrics(ours) == metrics(theirs)
    assert [row["step"] for row in metrics(ours)] == list(range(1, num_steps + 1))
    mine, other = trained(ours), trained(theirs)
    assert mine.keys() == other.keys()
    assert all(torch.equal(mine[name], other[name]) for name in mine)
    states = [load_optimizer_state(find_checkpoint(folder)) for folder in (ours, theirs)]
    assert_equal_values(*states)
    assert without_logs(ours) == without_logs(theirs)


def assert_equal_values(ours: Any, theirs: Any) -> None:
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_equal_values(ours[key], theirs[key])
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
    else:
        assert ours == theirs


@pytest.mark.parametrize(
    ("case", "kill"),
    [
        *[pytest.param(STAGE_2, kill, id=f"stage 2 {kill}") for kill in KILLS],
        *[pytest.param(STAGE_3, kill, id=f"stage 3 {kill}") for kill in ("between checkpoints", "in the next epoch")],
    ],
)
def test_killed_and_continued_is_bit_identical(
    case: Case, kill: str, corpus: TinyCorpus, chain: Chain, uninterrupted: dict[str, Path], tmp_path: Path
) -> None:
    run_dir, arguments = tmp_path / case[0], arguments_for(case, chain)
    assert in_child(run_and_die, kill, case[0], corpus, run_dir, arguments) == -signal.SIGKILL
    assert not (run_dir / "checkpoints" / "step_00000006").exists()
    assert run(case[0], corpus, run_dir, *arguments, resume="auto") == 0
    assert_same_runs(run_dir, uninterrupted[case[0]])


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [INIT_EGO, STAGE_1, STAGE_2_PAIRS, STAGE_2_GROUPED], ids=lambda case: case[2][-1] + case[0]
)
def test_every_stage_continues_bit_by_bit(case: Case, corpus: TinyCorpus, chain: Chain, tmp_path: Path) -> None:
    """Killed in the middle of an epoch, two steps after its last checkpoint."""
    arguments = arguments_for(case, chain)
    assert run(case[0], corpus, tmp_path / "whole", *arguments) == 0
    killed = tmp_path / "killed"
    assert in_child(run_and_die, "in the next epoch", case[0], corpus, killed, arguments) == -signal.SIGKILL
    assert run(case[0], corpus, killed, *arguments, resume="auto") == 0
    assert_same_runs(killed, tmp_path / "whole")


@pytest.mark.slow
def test_from_every_step_the_rest_is_the_same(corpus: TinyCorpus, chain: Chain, tmp_path: Path) -> None:
    """Mid-epoch at every place of it: LoRA with dropout, one epoch and a bit."""
    arguments = (*arguments_for(STAGE_3, chain), "checkpoint.every_steps=1", "checkpoint.keep_last=9")
    whole = tmp_path / "whole"
    assert run("stage3", corpus, whole, *arguments) == 0
    for step in range(1, 6):
        earlier, ours = whole / "checkpoints" / f"step_{step:08d}", tmp_path / str(step)
        assert run("stage3", corpus, ours, *arguments, resume=str(earlier)) == 0
        assert metrics(ours) == metrics(whole)[step:]
        assert find_checkpoint(ours).identity == find_checkpoint(whole).identity


def test_resume_auto_starts_where_there_is_nothing(corpus: TinyCorpus, chain: Chain, tmp_path: Path) -> None:
    arguments = ("max_steps=1", f"parent={chain.stage1}")
    assert run("stage2", corpus, tmp_path / "fresh", *arguments, resume="auto") == 0
    assert [row["step"] for row in metrics(tmp_path / "fresh")] == [1]


def test_a_finished_run_is_left_alone(
    corpus: TinyCorpus, chain: Chain, uninterrupted: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = uninterrupted["stage2"]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert run("stage2", corpus, folder, *arguments_for(STAGE_2, chain), resume="auto") == 0
    assert "is complete: nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_folder_with_checkpoints_needs_a_word(corpus: TinyCorpus, chain: Chain, half: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"stage2: holds checkpoints of an earlier run; continue .* --resume auto"
    ):
        run("stage2", corpus, half, *arguments_for(STAGE_2, chain))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("optim.learning_rate=0.002", "optim.learning_rate: 0.001 then, 0.002 now"),
        ("seed=1", "seed: 0 then, 1 now"),
        ("loss.kl.weight=0.5", "loss.kl.weight: 1.0 then, 0.5 now"),
        ("pairing=grouped", "pairing: 'one_view' then, 'grouped' now"),
        ("epochs=4", "epochs: 2.0 then, 4.0 now"),
        ("batch.global_size=6", "batch.global_size: 4 then, 6 now"),
        ("precision=bf16", "precision: 'fp32' then, 'bf16' now"),
        ("max_steps=5", "max_steps: None then, 5 now"),
        ("optim.betas=[0.9, 0.95]", "optim.betas: [0.9, 0.999] then, [0.9, 0.95] now"),
        ("optim.epsilon=1e-6", "optim.epsilon: 1e-08 then, 1e-06 now"),
        ("optim.weight_decay=0.1", "optim.weight_decay: 0.02 then, 0.1 now"),
        ("optim.warmup_fraction=0.5", "optim.warmup_fraction: 0.1 then, 0.5 now"),
        ("optim.max_gradient_norm=2", "optim.max_gradient_norm: 1.0 then, 2.0 now"),
        ("optim.tower_multiplier=0.5", "optim.tower_multiplier: 1.0 then, 0.5 now"),
        ("data.text_format=chat", "data.text_format: 'plain' then, 'chat' now"),
        ("data.decoder=decord", "data.decoder: 'pyav' then, 'decord' now"),
        ("data.max_text_tokens=99", "data.max_text_tokens: 512 then, 99 now"),
        ("loss.cycle.weight=0.5", "loss.cycle.weight: 1.0 then, 0.5 now"),
        ("model.mapper.num_blocks=2", "model.mapper.num_blocks: 1 then, 2 now"),
        ("train_connector=false", "train_connector: True then, False now"),
        ("model.mapper.width=12", "model.mapper.width: 8 then, 12 now"),
    ],
)
def test_another_configuration_is_refused(
    corpus: TinyCorpus, chain: Chain, half: Path, change: str, named: str
) -> None:
    with pytest.raises(CheckpointError) as refusal:
        run("stage2", corpus, half, *arguments_for(STAGE_2, chain), change, resume="auto")
    assert f"\n  {named}\n" in str(refusal.value)
    assert "restore these values, or start a new run in another output_dir" in str(refusal.value)


def test_another_table_is_refused_and_the_same_elsewhere_is_not(
    corpus: TinyCorpus, chain: Chain, half_copy: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved.parquet"
    shutil.copy(corpus.clips, moved)
    arguments = (*arguments_for(STAGE_2, chain), f"data.table={moved}")
    with moved.open("ab") as stream:
        stream.write(b"changed")
    with pytest.raises(Exception, match="cannot be read as a clip table"):
        run("stage2", corpus, half_copy, *arguments, resume="auto")
    other = TinyCorpus(corpus.root, chain.stage1 / "clips.parquet", corpus.conversations, corpus.language_model)
    write_shorter_table(corpus.clips, other.clips)
    with pytest.raises(CheckpointError, match=r"content of data\.table: "):
        run("stage2", other, half_copy, *arguments_for(STAGE_2, chain), resume="auto")
    shutil.copy(corpus.clips, moved)
    assert run("stage2", corpus, half_copy, *arguments, resume="auto") == 0


def write_shorter_table(source: Path, target: Path) -> None:
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.parquet.read_table(source).slice(0, 10), target)


def test_another_parent_is_refused(corpus: TinyCorpus, chain: Chain, half: Path, tmp_path: Path) -> None:
    other = tmp_path / "stage1"
    assert run("stage1", corpus, other, "max_steps=1", f"parent={chain.init_ego}") == 0
    with pytest.raises(CheckpointError, match="weights of the parent: "):
        run("stage2", corpus, half, *arguments_for(STAGE_2, chain), f"parent={other}", resume="auto")


def test_another_stage_is_refused(corpus: TinyCorpus, chain: Chain, half: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is of stage stage2, this is stage3"):
        run("stage3", corpus, tmp_path, *arguments_for(STAGE_3, chain), resume=str(half))


def test_what_changes_nothing_may_change(
    corpus: TinyCorpus, chain: Chain, half_copy: Path, uninterrupted: dict[str, Path]
) -> None:
    free = ("log_every=3", "checkpoint.keep_last=5", "data.max_failure_rate=0.5", "batch.local_size=4")
    recompute = "gradient_checkpointing=[towers, connector, mappers, language_model]"
    arguments = (*arguments_for(STAGE_2, chain), *free, recompute)
    assert run("stage2", corpus, half_copy, *arguments, resume="auto") == 0
    # another micro-batch rounds otherwise, and AdamW's first steps amplify it: 1e-5 was measured
    pairs = zip(metrics(half_copy), metrics(uninterrupted["stage2"]), strict=True)
    assert all(ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3) for ours, theirs in pairs)
    kept = [path.name for path in checkpoint.checkpoint_folders(half_copy)]
    assert kept == ["step_00000002", "step_00000004", "step_00000006"]


def test_the_micro_batch_stays_where_the_loss_depends_on_it(corpus: TinyCorpus, chain: Chain, tmp_path: Path) -> None:
    fixed = ("max_steps=1", "loss.kl.kind=gaussian_batch", "batch.global_size=4", f"parent={chain.stage1}")
    assert run("stage2", corpus, tmp_path, *fixed, "batch.local_size=2") == 0
    with pytest.raises(CheckpointError, match=r"\n  batch\.local_size: 2 then, 4 now\n"):
        run("stage2", corpus, tmp_path, *fixed, "batch.local_size=4", resume="auto")
    # planned as 2: a divisor of 4
    assert run("stage2", corpus, tmp_path, *fixed, "batch.local_size=3", resume="auto") == 0


def test_a_run_continues_in_another_folder(
    corpus: TinyCorpus, chain: Chain, half: Path, uninterrupted: dict[str, Path], tmp_path: Path
) -> None:
    before = files_below(half)
    earlier = half / "checkpoints" / "step_00000002"
    assert run("stage2", corpus, tmp_path / "other", *arguments_for(STAGE_2, chain), resume=str(earlier)) == 0
    assert metrics(tmp_path / "other") == metrics(uninterrupted["stage2"])[2:]
    assert files_below(half) == before


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def change_a_number(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8").replace('"step": 4', '"step": 5'), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "name", "message"),
    [
        (truncate, "trained.safetensors", "trained.safetensors is damaged: its checksum differs"),
        (flip_a_bit, "trained.safetensors", "trained.safetensors is damaged: its checksum differs"),
        (flip_a_bit, "optimizer.pt", "optimizer.pt is damaged: its checksum differs"),
        (Path.unlink, "optimizer.pt", "optimizer.pt"),
        (Path.unlink, "checkpoint.json", "checkpoint.json is missing"),
        (truncate, "checkpoint.json", "is not valid JSON"),
        (change_a_number, "checkpoint.json", "checkpoint.json is damaged: its checksum does not fit its content"),
        (lambda path: path.write_text("[]"), "checkpoint.json", "cannot be read"),
    ],
)
def test_a_damaged_newest_checkpoint_falls_back(
    damage: Callable[[Path], Any],
    name: str,
    message: str,
    corpus: TinyCorpus,
    chain: Chain,
    half_copy: Path,
    uninterrupted: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(half_copy / "checkpoints" / "step_00000004" / name)
    assert run("stage2", corpus, half_copy, *arguments_for(STAGE_2, chain), resume="auto") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "damaged checkpoint skipped" in said
    assert message in said
    assert "using step_00000002" in said
    assert "resume after step 2 of 6" in said
    assert "step_00000004 of this run is damaged: renamed to step_00000004.damaged" in said
    shutil.rmtree(half_copy / "checkpoints" / "step_00000004.damaged")
    assert_same_runs(half_copy, uninterrupted["stage2"])


def test_a_damaged_checkpoint_does_not_count_as_one_that_is_kept(
    corpus: TinyCorpus, chain: Chain, half_copy: Path
) -> None:
    """Step 4 is damaged: counted as one of the last three, it would drive out the sound step 2."""
    flip_a_bit(half_copy / "checkpoints" / "step_00000004" / "trained.safetensors")
    arguments = (*arguments_for(STAGE_2, chain), "checkpoint.every_steps=5", "checkpoint.keep_last=3")
    assert run("stage2", corpus, half_copy, *arguments, resume="auto") == 0
    found = {path.name for path in (half_copy / "checkpoints").iterdir()}
    assert found == {"step_00000002", "step_00000004.damaged", "step_00000005", "step_00000006"}


def test_what_came_after_a_named_checkpoint_is_not_continued_later(
    corpus: TinyCorpus, chain: Chain, half_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = half_copy / "checkpoints"
    arguments = (*arguments_for(STAGE_2, chain), "checkpoint.every_steps=6")
    earlier = str(checkpoints / "step_00000002")
    assert run("stage2", corpus, half_copy, *arguments, resume=earlier, dry_run=True) == 0
    assert (checkpoints / "step_00000004").is_dir()
    (checkpoints / "step_00000004.abandoned").mkdir()  # by an earlier attempt
    child = ("stage2", corpus, half_copy, arguments, earlier)
    assert in_child(continue_and_die, *child) == -signal.SIGKILL
    assert find_checkpoint(half_copy).step == 2
    assert (checkpoints / "step_00000004.abandoned.2" / "checkpoint.json").is_file()
    capsys.readouterr()
    assert run("stage2", corpus, half_copy, *arguments, resume="auto") == 0
    assert "resume after step 2 of 6" in " ".join(capsys.readouterr().out.split())


def test_no_sound_checkpoint_is_said(corpus: TinyCorpus, chain: Chain, half_copy: Path) -> None:
    for weights in half_copy.glob("checkpoints/*/trained.safetensors"):
        truncate(weights)
    with pytest.raises(CheckpointError, match=r"no sound checkpoint: .*step_00000004.*step_00000002"):
        run("stage2", corpus, half_copy, *arguments_for(STAGE_2, chain), resume="auto")


def test_the_log_of_failures_is_cut_back_too(
    corpus: TinyCorpus, chain: Chain, tmp_path: Path, uninterrupted: dict[str, Path]
) -> None:
    """What was unreadable after the checkpoint is met again, and listed once."""
    shutil.copytree(corpus.root, tmp_path / "videos")
    (tmp_path / "videos" / "take0_aria.mp4").write_bytes(b"no video")
    case = (*arguments_for(STAGE_3, chain), f"data.root={tmp_path / 'videos'}", "data.max_failure_rate=0.9")
    assert in_child(run_and_die, "in the next epoch", "stage3", corpus, tmp_path / "killed", case) == -signal.SIGKILL
    assert run("stage3", corpus, tmp_path / "killed", *case, resume="auto") == 0
    assert run("stage3", corpus, tmp_path / "whole", *case) == 0
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    logs = [list(read_jsonl(tmp_path / folder / "failures.jsonl")) for folder in ("killed", "whole")]
    assert logs[0] == logs[1]
    assert len(logs[0]) == 12  # six clips of the take, twice
    assert read_json(find_checkpoint(tmp_path / "killed").path / "checkpoint.json")["unreadable"] == 12
