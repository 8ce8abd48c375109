"""The driver of ablations: nothing twice, nothing lost, whatever is killed, stopped or fails."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from exo2ego.errors import DataError
from exo2ego.storage import read_json, write_json
from scripts.ablations.planning import Plan, Run
from scripts.ablations.running import FINISHED, Driver, Launch, Outcome, run_one
from tests.shared_data import REPOSITORY

STUB = (sys.executable, str(REPOSITORY / "tests" / "ablation_stub.py"))
PATIENCE_S = 120


def run_of(out: Path, name: str, parent: str | None = None, *overrides: str) -> Run:
    output = out / "runs" / name
    return Run(
        key=f"key of {name}",
        name=name,
        module="stages.stage2",
        file=Path("unused.yaml"),
        overrides=(*overrides, f"output_dir={output}"),
        output=output,
        parent=parent,
        level=0,
        tables=(),
    )


def plan_of(*runs: Run) -> Plan:
    return Plan({run.name: run for run in runs}, {run.name: ["suite/row/seed 0"] for run in runs}, {})


def drive(plan: Plan, out: Path, jobs: int = 2) -> Outcome:
    return Driver(plan, out, Launch(STUB, jobs)).run()


def starts(out: Path, name: str) -> int:
    return (out / "runs" / name / "starts").read_text().count("start")


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def in_background(plan: Plan, out: Path) -> subprocess.Popen[bytes]:
    """Starts a driver in a process of its own."""
    out.mkdir(exist_ok=True)
    (out / "plan.pickle").write_bytes(pickle.dumps(plan))
    code = (
        "import pickle, sys; from pathlib import Path; from scripts.ablations.running import Driver, Launch\n"
        "out = Path(sys.argv[1]); plan = pickle.loads((out / 'plan.pickle').read_bytes())\n"
        "sys.exit(Driver(plan, out, Launch(tuple(sys.argv[2:]), 2)).run().exit_code)"
    )
    return subprocess.Popen([sys.executable, "-c", code, str(out), *STUB], cwd=REPOSITORY)


def test_parents_run_first_and_nothing_runs_twice(tmp_path: Path) -> None:
    plan = plan_of(run_of(tmp_path, "a"), run_of(tmp_path, "b", "a"), run_of(tmp_path, "c", "a"))
    outcome = drive(plan, tmp_path)
    assert outcome.exit_code == 0
    assert outcome.finished[0] == "a"
    assert sorted(outcome.finished) == ["a", "b", "c"]
    assert drive(plan, tmp_path).finished == ["a", "b", "c"]
    assert [starts(tmp_path, name) for name in "abc"] == [1, 1, 1]
    made = read_json(tmp_path / "runs" / "b" / FINISHED)
    assert made["key"] == "key of b"
    assert made["parent"] == "a"
    assert "-m stages.stage2 --config unused.yaml --resume auto" in made["command"]
    # the run's own, not those of the driver
    assert made["code"] == {"version": "of the stub"}
    assert made["seconds"] == 120


def test_a_failed_run_stops_what_builds_on_it_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repaired = tmp_path / "repaired"
    plan = plan_of(
        run_of(tmp_path, "bad", None, f"fails_until={repaired}"),
        run_of(tmp_path, "child", "bad"),
        run_of(tmp_path, "grandchild", "child"),
        run_of(tmp_path, "good"),
    )
    outcome = drive(plan, tmp_path)
    assert (outcome.failed, outcome.skipped, outcome.finished) == (["bad"], ["child", "grandchild"], ["good"])
    assert outcome.exit_code == 1
    told = capsys.readouterr().err
    assert "failed: bad with exit code 6" in told
    assert "loss is not finite at step 7" in told
    repaired.touch()
    assert drive(plan, tmp_path).exit_code == 0
    assert [starts(tmp_path, name) for name in ("bad", "child", "grandchild", "good")] == [2, 1, 1, 1]


def test_no_more_run_at_once_than_jobs(tmp_path: Path) -> None:
    go = tmp_path / "go"
    plan = plan_of(*(run_of(tmp_path, name, None, f"until={go}") for name in ("a", "b", "c")))
    driver = in_background(plan, tmp_path)
    until(lambda: all((tmp_path / "runs" / name / "starts").exists() for name in "ab"))
    time.sleep(1)
    assert not (tmp_path / "runs" / "c").exists()
    go.touch()
    assert driver.wait(PATIENCE_S) == 0
    assert [starts(tmp_path, name) for name in "abc"] == [1, 1, 1]


def test_a_killed_driver_leaves_its_commands_to_the_next_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    go = tmp_path / "go"
    plan = plan_of(run_of(tmp_path, "a", None, f"until={go}"), run_of(tmp_path, "b", "a"))
    first = in_background(plan, tmp_path)
    until((tmp_path / "runs" / "a" / "starts").exists)
    first.kill()
    first.wait()
    capfd.readouterr()
    second = in_background(plan, tmp_path)
    told: list[str] = []

    def has_told() -> bool:
        told.append(capfd.readouterr().out)
        return "waiting for a: another process works on it" in "".join(told)

    until(has_told)
    assert starts(tmp_path, "a") == 1
    go.touch()
    assert second.wait(PATIENCE_S) == 0
    assert starts(tmp_path, "b") == 1
    # the first attempt had nobody to note that it ended well: a stage that is asked again finds itself complete
    assert starts(tmp_path, "a") == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_driver_stops_its_commands_with_a_checkpoint(tmp_path: Path, number: signal.Signals) -> None:
    go = tmp_path / "go"
    plan = plan_of(run_of(tmp_path, "a", None, f"until={go}"), run_of(tmp_path, "b", "a"))
    driver = in_background(plan, tmp_path)
    until((tmp_path / "runs" / "a" / "starts").exists)
    time.sleep(0.5)  # the stub hears signals before it writes, the driver while it waits
    os.kill(driver.pid, number)
    assert driver.wait(PATIENCE_S) == 128 + number
    assert (tmp_path / "runs" / "a" / "checkpoint").exists()
    assert not (tmp_path / "runs" / "a" / FINISHED).exists()
    go.touch()
    assert drive(plan, tmp_path).exit_code == 0


def test_two_drivers_share_the_work(tmp_path: Path) -> None:
    plan = plan_of(*(run_of(tmp_path, name) for name in "abcdef"))
    drivers = [in_background(plan, tmp_path) for _ in range(2)]
    assert [driver.wait(PATIENCE_S) for driver in drivers] == [0, 0]
    assert [starts(tmp_path, name) for name in "abcdef"] == [1] * 6


def test_one_run_alone_needs_its_parent(tmp_path: Path) -> None:
    plan = plan_of(run_of(tmp_path, "a"), run_of(tmp_path, "b", "a"))
    with pytest.raises(DataError, match="b: builds on a, which is not finished; its log: "):
        run_one(plan, "b", tmp_path, Launch(STUB))
    assert run_one(plan, "a", tmp_path, Launch(STUB)).exit_code == 0
    assert run_one(plan, "b", tmp_path, Launch(STUB)).exit_code == 0
    assert starts(tmp_path, "a") == 1


def test_a_folder_of_another_run_is_not_touched(tmp_path: Path) -> None:
    write_json(tmp_path / "runs" / "a" / FINISHED, {"key": "another key"})
    with pytest.raises(DataError, match=r"holds the run another ke, not key of a: remove it or choose --out"):
        drive(plan_of(run_of(tmp_path, "a")), tmp_path)


def test_the_cores_are_shared_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))  # a container's share of the machine
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert Launch(jobs=4).environment()["OMP_NUM_THREADS"] == "2"
    assert Launch(jobs=16).environment()["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in Launch(("torchrun",)).environment()
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert Launch(jobs=4).environment()["OMP_NUM_THREADS"] == "5"
