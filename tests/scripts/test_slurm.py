"""The Slurm script with stand-ins for srun and scontrol: a signal leads to a checkpoint and a requeue."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from exo2ego.train.checkpoint import find_checkpoint
from tests.shared_data import REPOSITORY
from tests.tiny_corpus import TinyCorpus, make_corpus
from tests.tiny_runs import metrics, overrides_for

SCRIPTS = sorted((REPOSITORY / "scripts" / "slurm").iterdir())
STEPS = 60

# as slurmstepd, which passes a signal on to every process of the step
SRUN = f"""#!{sys.executable}
import signal, subprocess, sys
import psutil
command = sys.argv[1 + next(n for n, word in enumerate(sys.argv[1:]) if not word.startswith("--")):]
with open("{{log}}", "a") as log:
    print("srun", *sys.argv[1:], file=log)
process = subprocess.Popen(command, start_new_session=True)
def forward(number, frame):
    step = psutil.Process(process.pid)
    for member in [step, *step.children(recursive=True)]:
        member.send_signal(number)
signal.signal(signal.SIGUSR1, forward)
code = process.wait()
sys.exit(code if code >= 0 else 128 - code)
"""
SCONTROL = """#!/bin/bash
if [[ $1 == show ]]; then echo localhost; else echo "scontrol $*" >>"{log}"; fi
"""
STOPS_ON_USR1 = f"""#!{sys.executable}
import pathlib, signal, sys, time
signal.signal(signal.SIGUSR1, lambda number, frame: sys.exit(1))
pathlib.Path("{{ready}}").touch()
time.sleep(60)
"""


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_bash_can_read_it(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_without_a_stage_it_says_how(tmp_path: Path) -> None:
    script = REPOSITORY / "scripts" / "slurm" / "stage.sbatch"
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "usage: sbatch" in done.stderr


def start(tmp_path: Path, overrides: list[str], python: str = sys.executable) -> subprocess.Popen[bytes]:
    """Starts the script as Slurm would on one node with two processes."""
    bin_dir, log = tmp_path / "bin", tmp_path / "log"
    bin_dir.mkdir(exist_ok=True)
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (bin_dir / name).write_text(text.replace("{log}", str(log)), encoding="utf-8")
        (bin_dir / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{bin_dir}:{os.environ['PATH']}",
        "PYTHON": python,
        "GPUS_PER_NODE": "2",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_JOB_NUM_NODES": "1",
    }
    config = REPOSITORY / "stages" / "configs" / "tiny" / "init_ego.yaml"
    command = ["bash", "scripts/slurm/stage.sbatch", "stages.init_ego", "--config", str(config), *overrides]
    with (tmp_path / "output").open("ab") as output:
        return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=output, stderr=output)


def wait_for_step(run_dir: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while not (run_dir / "metrics.jsonl").exists() or not metrics(run_dir) or metrics(run_dir)[-1]["step"] < step:
        assert process.poll() is None, "the job ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_the_signal_before_the_end_of_the_time_requeues(tmp_path: Path) -> None:
    """SIGUSR1 to the script alone (--signal=B:USR1) reaches the training, here a stand-in that then stops."""
    training = tmp_path / "training"
    training.write_text(STOPS_ON_USR1.replace("{ready}", str(tmp_path / "ready")), encoding="utf-8")
    training.chmod(0o755)
    process = start(tmp_path, [], python=str(training))
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=60) == 0
    assert (tmp_path / "log").read_text().count(f"scontrol requeue {os.getpid()}") == 1


def test_a_failure_is_not_requeued(tmp_path: Path) -> None:
    assert start(tmp_path, [], python="/bin/false").wait(timeout=60) == 1
    assert "requeue" not in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_a_signal_leads_to_a_checkpoint_and_a_requeue(tmp_path: Path) -> None:
    """SIGTERM as at a preemption; the second start continues, and ends without a requeue."""
    corpus: TinyCorpus = make_corpus(tmp_path / "corpus")
    run_dir = tmp_path / "run"
    settings = (f"output_dir={run_dir}", "epochs=100", f"max_steps={STEPS}", "checkpoint.every_steps=1000")
    overrides = overrides_for("init_ego", corpus, *settings, "batch.local_size=1")
    process = start(tmp_path, overrides)
    wait_for_step(run_dir, 2, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=300) == 0, (tmp_path / "output").read_text()[-6000:]
    assert (tmp_path / "log").read_text().count(f"scontrol requeue {os.getpid()}") == 1
    checkpoint = find_checkpoint(run_dir)
    assert 2 <= checkpoint.step < STEPS
    assert metrics(run_dir)[-1]["step"] == checkpoint.step  # it stopped after the step that it was in
    assert start(tmp_path, overrides).wait(timeout=300) == 0
    assert [row["step"] for row in metrics(run_dir)] == list(range(1, STEPS + 1))
    log = (tmp_path / "log").read_text()
    assert log.count("scontrol requeue") == 1  # complete: not once more
    assert "--kill-on-bad-exit=1" in log
    assert "--rdzv-backend=c10d --rdzv-endpoint=localhost:" in log
