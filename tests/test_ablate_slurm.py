"""The Slurm files of ablations: sound shell, levels that wait for each other, a stopped job that queues again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from exo2ego.config import load_config
from scripts.ablations.planning import Contents, Plan, make_plan
from scripts.ablations.slurm import write_slurm_files
from scripts.ablations.suites import BASES, BaseSet, read_suite
from tests.shared_data import REPOSITORY

ARGUMENTS = ["--suite", "a suite.yaml", "--base", "tiny", "--launch", "torchrun --nproc_per_node 8"]
SUITES = REPOSITORY / "stages" / "configs" / "ablations"


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Plan:
    monkeypatch.chdir(REPOSITORY)
    base = load_config(BaseSet, REPOSITORY / BASES / "tiny.yaml")
    suites = [read_suite(SUITES / "table7.yaml"), read_suite(SUITES / "table15.yaml")]
    return make_plan(suites, base, [0, 1], tmp_path / "out", Contents())


def program(folder: Path, name: str, body: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
    (folder / name).chmod(0o755)


def environment(programs: Path, **values: str) -> dict[str, str]:
    return os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", **values}


def test_the_files_are_sound_and_name_every_run_once(plan: Plan, tmp_path: Path) -> None:
    submit = write_slurm_files(plan, tmp_path / "slurm", tmp_path / "out", ARGUMENTS)
    files = sorted((tmp_path / "slurm").iterdir())
    assert [path.name for path in files] == [*(f"level_{level}.sh" for level in range(5)), "report.sh", "submit.sh"]
    for path in files:
        assert subprocess.run(["bash", "-n", path]).returncode == 0
    named: list[str] = []
    for level, path in enumerate(files[:5]):
        names = re.findall(r"^    (\S+)$", path.read_text(), flags=re.MULTILINE)
        assert {plan.runs[name].level for name in names} == {level}
        assert f"#SBATCH --array=0-{len(names) - 1}\n" in path.read_text()
        named += names
    assert sorted(named) == sorted(plan.runs)
    assert submit.name == "submit.sh"


def test_each_level_is_submitted_after_the_one_before(plan: Plan, tmp_path: Path) -> None:
    submit = write_slurm_files(plan, tmp_path / "slurm", tmp_path / "out", ARGUMENTS)
    calls = tmp_path / "calls"
    program(tmp_path / "bin", "sbatch", f'echo "$@" >> {calls}; wc -l < {calls}')
    subprocess.run(["bash", submit], env=environment(tmp_path / "bin"), check=True, timeout=60)
    submitted = calls.read_text().splitlines()
    assert submitted[0] == "--parsable level_0.sh"
    for level in range(1, 5):
        assert submitted[level] == f"--parsable --dependency=afterany:{level} level_{level}.sh"
    assert submitted[5].startswith("--dependency=afterany:5 ")
    assert submitted[5].endswith("report.sh")


def test_a_task_runs_its_own_run(plan: Plan, tmp_path: Path) -> None:
    write_slurm_files(plan, tmp_path / "slurm", tmp_path / "out", ARGUMENTS)
    program(tmp_path / "bin", "python", 'printf "%s\\n" "$PWD" "$@"; exit 3')
    script = tmp_path / "slurm" / "level_2.sh"
    values = environment(tmp_path / "bin", SLURM_ARRAY_TASK_ID="1", SLURM_JOB_ID="7")
    done = subprocess.run(["bash", script], env=values, capture_output=True, text=True, timeout=60)
    second = [run.name for run in plan.runs.values() if run.level == 2][1]
    assert done.stdout.splitlines() == [str(REPOSITORY), "-m", "scripts.ablate", *ARGUMENTS, "--run", second]
    assert done.returncode == 3, "the task has failed where its run has"


def test_a_stopped_task_saves_and_queues_again(plan: Plan, tmp_path: Path) -> None:
    write_slurm_files(plan, tmp_path / "slurm", tmp_path / "out", ARGUMENTS)
    began, saved, queued = tmp_path / "began", tmp_path / "saved", tmp_path / "queued"
    program(
        tmp_path / "bin",
        "python",
        f"trap 'sleep 0.5; touch {saved}; exit 143' TERM; touch {began}; while true; do sleep 0.1; done",
    )
    program(tmp_path / "bin", "scontrol", f'test -e {saved} && echo "$@" > {queued}')
    values = environment(tmp_path / "bin", SLURM_ARRAY_TASK_ID="0", SLURM_JOB_ID="7")
    task = subprocess.Popen(["bash", tmp_path / "slurm" / "level_0.sh"], env=values)
    deadline = time.monotonic() + 60
    while not began.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    task.send_signal(signal.SIGTERM)
    assert task.wait(60) == 143
    assert queued.read_text() == "requeue 7\n"
