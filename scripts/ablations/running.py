"""Runs a plan as the commands that a user would type: several at once, continued after a kill, never twice."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from exo2ego.console import console, error_console
from exo2ego.errors import DataError
from exo2ego.storage import read_json, read_jsonl, write_json
from exo2ego.train.journal import METRICS
from exo2ego.train.stopping import EXIT_CODE_OF_SIGNAL, StopRequest
from scripts.ablations.planning import Plan, Run

FINISHED = "ablation.json"
"""In a run's folder, written when its command has ended well."""
LINES_OF_A_FAILURE = 12
POLL_S = 0.2


@dataclass(frozen=True)
class Launch:
    """How commands are started."""

    training: tuple[str, ...] = ()
    """What stands before `-m stages.…`, for example torchrun and its options; empty = this Python."""
    jobs: int = 1
    """Commands at once."""

    def command(self, run: Run) -> list[str]:
        """Returns the command line of a run."""
        start = self.training if self.training and not run.is_evaluation else (sys.executable,)
        resume = ("--resume", "auto")
        return [*start, "-m", run.module, "--config", str(run.file), *resume, *run.overrides]

    def environment(self) -> dict[str, str]:
        """Returns the environment: the commands share the cores unless the user or a launcher sets threads."""
        threads = str(max(1, len(os.sched_getaffinity(0)) // self.jobs))
        shared = {} if self.training else {"OMP_NUM_THREADS": threads}
        return {**shared, "TOKENIZERS_PARALLELISM": "false", **os.environ}


@dataclass
class Outcome:
    """What became of the runs, by name."""

    finished: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """Not tried, because a run that they build on failed."""
    stopped_by: int = 0
    """The signal that ended the driver, or 0."""

    @property
    def exit_code(self) -> int:
        """Returns 0 when everything is finished."""
        if self.stopped_by:
            return EXIT_CODE_OF_SIGNAL + self.stopped_by
        return 1 if self.failed or self.skipped else 0


@dataclass
class _Child:
    process: subprocess.Popen[bytes]
    lock: TextIO
    began: float


def is_finished(run: Run) -> bool:
    """Returns whether a run has ended well; raises `DataError` where its folder holds something else."""
    marker = run.output / FINISHED
    if not marker.is_file():
        return False
    made = read_json(marker, "record of a finished run")
    if made["key"] != run.key:
        raise DataError(
            f"{run.output}: holds the run {made['key'][:10]}, not {run.key[:10]}: remove it or choose --out"
        )
    return True


class Driver:
    """Works through a plan."""

    def __init__(self, plan: Plan, out: Path, launch: Launch) -> None:
        self.plan, self.out, self.launch = plan, out, launch
        self.outcome = Outcome()
        self._waiting = list(plan.runs.values())
        self._children: dict[str, _Child] = {}
        self._told_busy: set[str] = set()

    def run(self) -> Outcome:
        """Runs all that is not finished; returns when nothing more can be done, or after a signal."""
        self.outcome.finished = [run.name for run in self._waiting if is_finished(run)]
        done = set(self.outcome.finished)
        self._waiting = [run for run in self._waiting if run.name not in done]
        console.print(f"{len(self.plan.runs)} runs, {len(done)} of them finished before", markup=False)
        with StopRequest() as stop:
            try:
                while (self._waiting or self._children) and not stop.number:
                    self._collect()
                    self._start_what_can()
                    time.sleep(POLL_S)
                self.outcome.stopped_by = stop.number
                for child in self._children.values():
                    child.process.terminate()  # a stage saves a checkpoint, an evaluation has kept every answer
                while self._children:
                    self._collect()
                    time.sleep(POLL_S)
            except BaseException:  # a second signal, or a fault of ours: nothing is left running
                for child in self._children.values():
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(child.process.pid, signal.SIGKILL)
                raise
        return self.outcome

    def _start_what_can(self) -> None:
        for run in list(self._waiting):
            if len(self._children) >= self.launch.jobs:
                return
            if run.parent in self.outcome.failed or run.parent in self.outcome.skipped:
                self._waiting.remove(run)
                self.outcome.skipped.append(run.name)
                error_console.print(f"skipped: {run.name}: {run.parent} failed", markup=False)
            elif run.parent is None or run.parent in self.outcome.finished:
                self._try(run)

    def _try(self, run: Run) -> None:
        """Starts a run unless another process works on it: a command of an earlier, killed driver, or of a peer."""
        lock = _lock(self.out / "locks" / f"{run.name}.lock")
        if lock is None:
            if run.name not in self._told_busy:
                self._told_busy.add(run.name)
                console.print(f"waiting for {run.name}: another process works on it", markup=False)
            return
        self._waiting.remove(run)
        if is_finished(run):  # by that process, in the meantime
            lock.close()
            self.outcome.finished.append(run.name)
            return
        process = start(run, self.out, self.launch, lock)
        self._children[run.name] = _Child(process, lock, time.monotonic())
        console.print(f"{_now()}  start  {run.name}  ({_for_whom(self.plan.users[run.name])})", markup=False)

    def _collect(self) -> None:
        for name, child in list(self._children.items()):
            exit_code = child.process.poll()
            if exit_code is None:
                continue
            run = self.plan.runs[name]
            seconds = time.monotonic() - child.began
            if exit_code == 0:
                record_finished(run, self.launch)
                self.outcome.finished.append(name)
                share = f"{len(self.outcome.finished)}/{len(self.plan.runs)}"
                console.print(f"{_now()}  done   {name}  in {seconds:.0f} s  [{share}]", markup=False)
            elif not self.outcome.stopped_by:
                self.outcome.failed.append(name)
                _report_failure(run, self.out, exit_code)
            child.lock.close()
            del self._children[name]


def run_one(plan: Plan, name: str, out: Path, launch: Launch) -> Outcome:
    """Runs one run of a plan, whose parent must be finished; raises `DataError` otherwise."""
    run = plan.runs[name]
    if run.parent is not None and not is_finished(plan.runs[run.parent]):
        raise DataError(f"{name}: builds on {run.parent}, which is not finished; its log: {log_path(out, run.parent)}")
    alone = Plan({name: replace(run, parent=None)}, {name: plan.users[name]}, {})
    return Driver(alone, out, launch).run()


def start(run: Run, out: Path, launch: Launch, lock: TextIO) -> subprocess.Popen[bytes]:
    """Starts a run's command, in a session of its own: a Ctrl-C reaches the driver alone, which passes it on once.

    The command inherits the lock, so that it stays locked even where the driver is killed.
    """
    command = launch.command(run)
    log = log_path(out, run.name)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        stream.write(f"\n$ {shlex.join(command)}\n".encode())
        stream.flush()
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=launch.environment(),
            start_new_session=True,
            pass_fds=(lock.fileno(),),
        )


def record_finished(run: Run, launch: Launch) -> None:
    """Notes in a run's folder that its command has ended well.

    Code and seconds are the run's own: this driver may only have seen the end of what others did.
    """
    metrics = run.output / METRICS
    steps = read_jsonl(metrics, "metrics of a run") if metrics.is_file() else None
    record: dict[str, Any] = {
        "key": run.key,
        "name": run.name,
        "parent": run.parent,
        "command": shlex.join(launch.command(run)),
        # of its steps; an evaluation keeps no time
        "seconds": round(sum(step["seconds"] for step in steps), 1) if steps is not None else None,
        "recorded_utc": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "code": read_json(run.output / "run.json", "record of a run")["provenance"]["code"],
    }
    write_json(run.output / FINISHED, record)


def log_path(out: Path, name: str) -> Path:
    """Returns where a run's output goes."""
    return out / "logs" / f"{name}.log"


def _report_failure(run: Run, out: Path, exit_code: int) -> None:
    log = log_path(out, run.name)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LINES_OF_A_FAILURE:]
    error_console.print(f"failed: {run.name} with exit code {exit_code}; the end of {log}:", markup=False)
    for line in lines:
        error_console.print(f"    {line}", markup=False)


def _lock(path: Path) -> TextIO | None:
    """Returns the open lock, or None where another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = path.open("a")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        return None
    return stream


def _now() -> str:
    return datetime.datetime.now().strftime("%H:%M:%S")


def _for_whom(users: Sequence[str]) -> str:
    return users[0] if len(users) == 1 else f"{users[0]} and {len(users) - 1} more"


def commands(plan: Plan, launch: Launch) -> Iterator[str]:
    """Yields every run as the command line that a user would type."""
    for run in plan.runs.values():
        command = launch.command(run)
        if command[0] == sys.executable:
            command[0] = "python"
        yield shlex.join(command)
