"""The stages as a user runs them: signals, workers, `--dry-run`, `--print-config`, and one message for a fault."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from exo2ego.command_line import RunOptions
from exo2ego.config import load_config
from exo2ego.data.batch import Batch
from exo2ego.errors import CheckpointError
from exo2ego.train import run as run_module
from exo2ego.train.checkpoint import checkpoint_folders, find_checkpoint
from exo2ego.train.objective import Terms
from exo2ego.train.preparation import Prepared, _warnings, prepare
from exo2ego.train.run import run_stage
from exo2ego.train.stopping import HEARD, StopRequest
from stages.common import run_as_command
from tests.conftest import RunPython
from tests.shared_data import REPOSITORY
from tests.tiny_corpus import TinyCorpus
from tests.tiny_runs import STAGES, files_below, make_stage, metrics, overrides_for, run, trained
from tests.train.conftest import Chain

LONG = ("epochs=1000", "max_steps=null", "checkpoint.every_steps=1000")


def command(name: str, corpus: TinyCorpus, *overrides: str) -> list[str]:
    config = REPOSITORY / "stages" / "configs" / "tiny" / f"{name}.yaml"
    return ["-m", f"stages.{name}", "--config", str(config), *overrides_for(name, corpus, *overrides)]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a Ctrl-C reaches a whole process group: this one, not the tests'
    )


def wait_for_a_step(process: subprocess.Popen[str], run_dir: Path) -> None:
    deadline = time.monotonic() + 120
    while not (run_dir / "metrics.jsonl").exists() or not (run_dir / "metrics.jsonl").read_text(encoding="utf-8"):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_ctrl_c_ends_the_run_after_its_step_with_a_checkpoint(corpus: TinyCorpus, chain: Chain, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    arguments = (*LONG, f"output_dir={run_dir}", f"parent={chain.init_ego}", "data.num_workers=1")
    process = start(command("stage1", corpus, *arguments))
    wait_for_a_step(process, run_dir)
    os.killpg(process.pid, signal.SIGINT)  # to the loader's worker too, as a terminal does
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.count("stopping after this step, with a checkpoint") == 1
    assert "Traceback" not in errors
    assert f"stopped with a checkpoint in {run_dir}; continue with --resume auto" in " ".join(out.split())
    done = metrics(run_dir)[-1]["step"]
    assert find_checkpoint(run_dir).step == done
    assert not list(run_dir.rglob("*.partial-*"))
    assert stopped_after(done + 2, "stage1", corpus, run_dir, *arguments, "data.num_workers=0", resume="auto") == 143
    assert [row["step"] for row in metrics(run_dir)] == list(range(1, done + 3))


def test_sigterm_to_all_processes_of_a_run_is_no_death_of_its_workers(corpus: TinyCorpus, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    workers = ("data.num_workers=3", "data.max_worker_restarts=1")
    process = start(command("init_ego", corpus, *LONG, f"output_dir={run_dir}", *workers))
    wait_for_a_step(process, run_dir)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    assert "data worker" not in errors
    assert find_checkpoint(run_dir).step == metrics(run_dir)[-1]["step"]


def test_a_signal_during_set_up_ends_the_run_before_its_first_step(
    corpus: TinyCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def told(*arguments: Any) -> Prepared:
        os.kill(os.getpid(), signal.SIGTERM)
        return prepare(*arguments)

    monkeypatch.setattr(run_module, "prepare", told)
    former = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as scripts/slurm/node.sh leaves it
    try:
        assert run("init_ego", corpus, tmp_path / "run") == 143
    finally:
        signal.signal(signal.SIGTERM, former)
    said = capfd.readouterr()
    assert "stopping before the first step" in said.err
    assert "nothing was trained or written" in " ".join(said.out.split())
    assert files_below(tmp_path) == []


def test_the_plan_warns_of_a_hang_that_would_end_the_job(corpus: TinyCorpus) -> None:
    def warnings(num_processes: int, *overrides: str) -> list[str]:
        config = make_stage("stage1", corpus, "data.num_workers=1", *overrides).config
        return _warnings(config, num_processes)

    assert warnings(2) == warnings(1, "data.timeout_s=null") == warnings(2, "data.timeout_s=299") == []
    assert warnings(2, "data.timeout_s=null", "data.num_workers=0") == []
    assert "data.timeout_s=300: " in warnings(2, "data.timeout_s=300")[0]
    assert "data.timeout_s=null: " in warnings(2, "data.timeout_s=null")[0]


def stopped_after(
    last_step: int, name: str, corpus: TinyCorpus, run_dir: Path, *overrides: str, resume: str | None = None
) -> int:
    """Runs a stage in this process, which a SIGTERM reaches in the last step, as from a scheduler."""
    stage = make_stage(name, corpus, f"output_dir={run_dir}", *overrides)
    losses, calls = stage.losses, []
    first_step = find_checkpoint(run_dir).step if resume else 0

    def losses_and_signal(model: torch.nn.Module, batch: Batch) -> Terms:
        if batch.pixels.device.type != "meta":  # the cost of a step is counted without content, before the first
            calls.append(batch)
        if len(calls) == 2 * (last_step - first_step):  # two micro-batches a step
            os.kill(os.getpid(), signal.SIGTERM)
        return losses(model, batch)

    stage.losses = losses_and_signal  # type: ignore[method-assign]
    return run_stage(stage, RunOptions(resume=resume))


def test_sigterm_saves_exits_with_143_and_continues(corpus: TinyCorpus, chain: Chain, tmp_path: Path) -> None:
    arguments = ("epochs=2", "max_steps=null", "checkpoint.every_steps=99", f"parent={chain.stage2}")
    before = [signal.getsignal(number) for number in HEARD]
    assert stopped_after(4, "stage3", corpus, tmp_path / "stopped", *arguments) == 143
    assert [signal.getsignal(number) for number in HEARD] == before
    assert [path.name for path in checkpoint_folders(tmp_path / "stopped")] == ["step_00000004"]
    assert run("stage3", corpus, tmp_path / "stopped", *arguments, resume="auto") == 0
    assert run("stage3", corpus, tmp_path / "whole", *arguments) == 0
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")
    assert_equal_weights(tmp_path / "stopped", tmp_path / "whole")


def assert_equal_weights(ours: Path, theirs: Path) -> None:
    mine, other = trained(ours), trained(theirs)
    assert mine.keys() == other.keys()
    assert all(torch.equal(mine[name], other[name]) for name in mine)


def test_a_second_signal_stops_at_once() -> None:
    with StopRequest() as request:
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.number == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_workers_deliver_what_this_process_would(corpus: TinyCorpus, chain: Chain, tmp_path: Path) -> None:
    for workers in (0, 2):
        arguments = ("epochs=2", f"parent={chain.init_ego}", f"data.num_workers={workers}")
        assert run("stage1", corpus, tmp_path / f"workers{workers}", *arguments) == 0
    assert metrics(tmp_path / "workers0") == metrics(tmp_path / "workers2")
    assert_equal_weights(tmp_path / "workers0", tmp_path / "workers2")


def test_a_dry_run_shows_the_plan_and_writes_nothing(
    corpus: TinyCorpus, chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_below(chain.stage1)
    arguments = (f"parent={chain.stage1}", "epochs=2", "max_steps=null", "batch.local_size=3")
    assert run("stage2", corpus, tmp_path / "out", *arguments, dry_run=True) == 0
    assert files_below(tmp_path) == []
    assert files_below(chain.stage1) == before
    said = " ".join(capsys.readouterr().out.split())
    assert "stage2 · Teacher-Student Guidance · on stage1" in said
    assert "UNFINISHED" not in said
    assert re.search(r"model\.teacher_tower\.\* │ frozen │ \d+ │", said)
    assert "data 30 samples per epoch (all_pairs) · 100 video tokens per clip" in said
    assert "batch 1 processes x 2 clips x 2 = 4" in said
    assert "local batch lowered from 3 to keep the global batch (A16)" in said
    assert "plan 15 steps, 2 of warm-up" in said
    assert re.search(r"one micro-batch: 2 clips \(0 unreadable\), \d+ tokens, \d+ of them to learn", said)
    assert re.search(r"loss text \d+\.\d+ kl \d+\.\d+ cycle \d+\.\d+ gradient norm", said)
    assert re.search(r"grads all \d+ trained tensors have one", said)
    assert re.search(r"memory weights and optimiser .* GB", said)
    assert re.search(r"disk .* GB of checkpoints", said)


def test_a_dry_run_of_a_run_with_checkpoints_looks_only(corpus: TinyCorpus, chain: Chain) -> None:
    before = files_below(chain.stage2)
    arguments = ("max_steps=2", f"parent={chain.stage1}")
    assert run("stage2", corpus, chain.stage2, *arguments, dry_run=True) == 0
    assert run("stage2", corpus, chain.stage2, *arguments, dry_run=True, resume="auto") == 0
    assert files_below(chain.stage2) == before


@pytest.mark.parametrize("name", STAGES)
def test_the_printed_configuration_is_the_configuration(
    corpus: TinyCorpus, tmp_path: Path, run_python: RunPython, name: str
) -> None:
    done = run_python(*command(name, corpus, "optim.learning_rate=2e-5"), "--print-config")
    (tmp_path / "printed.yaml").write_text(done.stdout, encoding="utf-8")
    printed = load_config(STAGES[name][1], tmp_path / "printed.yaml")
    assert printed == make_stage(name, corpus, "optim.learning_rate=2e-5").config


def test_a_fault_is_one_message_and_an_exit_code(
    corpus: TinyCorpus,
    chain: Chain,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = command("stage3", corpus, f"output_dir={tmp_path}", f"parent={chain.stage1}")[2:]
    monkeypatch.setattr(sys, "argv", ["stages.stage3", *arguments])
    with pytest.raises(SystemExit) as ended:
        run_as_command(*STAGES["stage3"], "stages.stage3")
    assert ended.value.code == CheckpointError.exit_code
    said = capsys.readouterr().err
    assert said.startswith("error stage3 builds on stage2, but ")
    assert said.endswith('give parent=RUN_FOLDER whose run.json says "stage": "stage2"\n')
