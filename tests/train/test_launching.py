"""Launchers: a process that dies ends the job with its reason, and the deepspeed launcher starts the same command."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.shared_data import REPOSITORY
from tests.tiny_corpus import TinyCorpus
from tests.tiny_runs import metrics, overrides_for
from tests.train.conftest import Chain

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone")


def launched(*command: str, timeout_s: float = 400) -> tuple[int, str, float]:
    """Runs a command from the repository; returns its exit code, what it said, and how long it took in seconds."""
    began = time.monotonic()
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    return done.returncode, done.stdout + done.stderr, time.monotonic() - began


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "reasons"),
    [
        ("killed", ["Signal 9 (SIGKILL)"]),
        ("broken", ["RuntimeError: CUDA out of memory, so to speak", "exitcode  : 1 "]),
        ("bad data", ["error in process 1 of 2 videos/a.mp4: the disk is gone", "exitcode  : 3 "]),
        ("not a number", ["not finite before the update", "Samples of the micro-batches at fault: ['take"]),
    ],
)
def test_a_process_that_fails_ends_the_job_with_its_reason(
    corpus: TinyCorpus, chain: Chain, tmp_path: Path, way: str, reasons: list[str]
) -> None:
    """The limit on the wait for others is far longer than the test may take: it is not what ends the job."""
    settings = ("max_steps=4", "checkpoint.every_steps=1", "batch.local_size=2", "timeout_s=3600")
    overrides = overrides_for("stage1", corpus, f"parent={chain.init_ego}", f"output_dir={tmp_path / 'run'}", *settings)
    code, said, _ = launched(*TORCHRUN, "-m", "tests.train.dying_process", way, json.dumps(overrides))
    assert code != 0
    for reason in reasons:
        assert reason in said
    assert [row["step"] for row in metrics(tmp_path / "run")] == [1]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_00000001"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")
def test_the_deepspeed_launcher_starts_the_same_command(corpus: TinyCorpus, chain: Chain, tmp_path: Path) -> None:
    """It puts --local_rank into the command line of every process."""
    file = REPOSITORY / "stages" / "configs" / "deepspeed" / "zero2.json"
    overrides = overrides_for(
        "stage1",
        corpus,
        f"parent={chain.init_ego}",
        f"output_dir={tmp_path / 'run'}",
        "max_steps=2",
        "batch.local_size=1",
        f"deepspeed={file}",
    )
    config = REPOSITORY / "stages" / "configs" / "tiny" / "stage1.yaml"
    port = str(20_000 + os.getpid() % 20_000)
    code, said, _ = launched(
        *(sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", "2", "--master_port", port),
        *("--module", "stages.stage1", "--config", str(config), *overrides),
    )
    assert code == 0, said[-6000:]
    assert "batch  2 processes x 1 clips x 2 = 4" in said
    assert [row["step"] for row in metrics(tmp_path / "run")] == [1, 2]
