"""Two processes of torchrun share the clips: the same results as one process, and stopped runs go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from exo2ego.errors import DataError
from exo2ego.storage import read_json, read_jsonl
from tests.eval.evaluation_setup import write_setup
from tests.eval.test_egobench import ALL_MODES, arguments
from tests.shared_data import REPOSITORY

TORCHRUN = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone")
FILES = {"failures.jsonl", "predictions.jsonl", "questions.jsonl", "results.json", "run.json"}


def evaluate(setup: Path, output: Path, *overrides: str, alone: bool = False) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *(() if alone else TORCHRUN), "-m", "eval.egobench", *arguments(setup, output, *overrides)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )


def answers(output: Path) -> dict[tuple[str, str], Any]:
    rows = [row for path in output.glob("predictions.jsonl*") for row in read_jsonl(path)]
    found = {(row["id"], row["mode"]): {**row, "seconds": 0} for row in rows}
    assert len(found) == len(rows)
    return found


def results(output: Path) -> str:
    """What the report says, without the folder's name."""
    return json.dumps(read_json(output / "results.json"), sort_keys=True).replace(output.name, "OUTPUT")


@pytest.mark.slow
def test_two_processes_answer_as_one_does_and_go_on_after_a_stop(tmp_path: Path) -> None:
    setup = write_setup(tmp_path / "setup")
    one = evaluate(setup, tmp_path / "one", ALL_MODES, alone=True)
    assert one.returncode == 0, one.stderr
    # the process that shares out take 1 cannot read it: both stop, and keep what they have
    video = setup / "videos" / "take1" / "ego.mp4"
    video.rename(video.with_suffix(".away"))
    stopped = evaluate(setup, tmp_path / "two", ALL_MODES)
    assert stopped.returncode != 0
    assert f"exitcode  : {DataError.exit_code} " in stopped.stdout + stopped.stderr
    assert 0 < len([row for path in (tmp_path / "two").glob("failures.jsonl.part-*") for row in read_jsonl(path)]) <= 12
    assert len(answers(tmp_path / "two")) < 36
    video.with_suffix(".away").rename(video)
    two = evaluate(setup, tmp_path / "two", ALL_MODES)
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("| narration_inter | letter |") == 1, "one process talks"
    assert {path.name for path in (tmp_path / "two").iterdir()} >= FILES
    assert not list((tmp_path / "two").glob("*.part-*"))
    assert not list(read_jsonl(tmp_path / "two" / "failures.jsonl"))
    assert answers(tmp_path / "two") == answers(tmp_path / "one")
    assert results(tmp_path / "two") == results(tmp_path / "one")
