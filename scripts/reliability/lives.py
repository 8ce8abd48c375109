"""One life of a tiny run: started in processes of its own, ended by a signal somewhere, and what is left of it."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from exo2ego.train.checkpoint import checkpoint_folders, find_checkpoint, load_optimizer_state
from exo2ego.train.journal import Journal
from tests.tiny_corpus import TinyCorpus
from tests.tiny_runs import metrics, run

Aim = Literal["never", "any time", "time in a save", "operation of a save", "signal"]
HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
LONGEST_S = 600.0
STARTED_AT, STEP, SAVES, IN_SAVE, SAVING_SINCE, SAVE_S, OPERATIONS = range(7)
FILE_EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")


@dataclass(frozen=True)
class Case:
    """A stage with its configuration, on one or two processes."""

    stage: str
    num_processes: int
    overrides: tuple[str, ...]
    label: str = ""

    @property
    def name(self) -> str:
        """Returns what tells it from the others."""
        return f"{self.stage}{' ' + self.label if self.label else ''}, {self.num_processes} proc."


@dataclass(frozen=True)
class End:
    """How a life is to end: `after` counts steps or saves of this life, `chance` is in [0, 1)."""

    aim: Aim
    after: int = 0
    chance: float = 0.0
    number: int = signal.SIGKILL

    @classmethod
    def drawn(cls, chance: random.Random) -> End:
        """Returns a SIGKILL of which two in three are aimed into a save."""
        aims: tuple[Aim, ...] = ("any time", "time in a save", "operation of a save")
        aim = chance.choice(aims)
        return cls(aim, chance.randrange(6) if aim == "any time" else chance.randint(1, 3), chance.random())


@dataclass(frozen=True)
class Save:
    """How long one takes, and how many operations on files."""

    seconds: float = 0.0
    operations: int = 0


@dataclass(frozen=True)
class Death:
    """What the parent saw: the exit codes, and where the run was."""

    exit_codes: list[int | None]
    started_at: int
    last_step: int
    in_save: bool
    reached_a_step: bool
    last_save: Save

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return set(self.exit_codes) == {0}


def live(case: Case, corpus: TinyCorpus, run_dir: Path, end: End, chance: random.Random, one_save: Save) -> Death:
    """Runs or continues a case until its end or `end`, whichever comes first."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    marks = context.RawArray("d", 7)
    port, died = free_port(), chance.randrange(case.num_processes)
    ranks = [
        context.Process(target=_live, args=(case, corpus, run_dir, rank, port, marks, end, one_save))
        for rank in range(case.num_processes)
    ]
    for process in ranks:
        process.start()
    if end.aim in ("any time", "signal"):
        wait_for(lambda: marks[STEP] >= marks[STARTED_AT] + end.after, ranks)
        time.sleep(end.chance * 0.5)
        if ranks[died].exitcode is None:
            os.kill(ranks[died].pid, end.number)  # type: ignore[arg-type]
    wait_for(lambda: any(process.exitcode is not None for process in ranks), ranks)
    in_save = bool(marks[IN_SAVE])
    for process in ranks:  # what torchrun does: one is dead, the others go
        killed = any(other.exitcode == -signal.SIGKILL for other in ranks)
        process.join(1 if killed else LONGEST_S)
        if process.exitcode is None:
            process.kill()
            process.join()
    return Death(
        exit_codes=[process.exitcode for process in ranks],
        started_at=int(marks[STARTED_AT]),
        last_step=int(marks[STEP]),
        in_save=in_save,
        reached_a_step=marks[STEP] > marks[STARTED_AT],
        last_save=Save(marks[SAVE_S], int(marks[OPERATIONS])),
    )


def wait_for(happened: Callable[[], bool], ranks: list[Any]) -> None:
    """Returns when it happened or a process has ended; raises `TimeoutError` after `LONGEST_S`."""
    limit = time.monotonic() + LONGEST_S
    while not happened() and all(process.exitcode is None for process in ranks):
        if time.monotonic() > limit:
            raise TimeoutError(f"nothing happened in {LONGEST_S} s")
        time.sleep(0.002)


def free_port() -> int:
    """Returns a port that nobody uses at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _live(
    case: Case, corpus: TinyCorpus, run_dir: Path, rank: int, port: int, marks: Any, end: End, one_save: Save
) -> None:
    """The process: notes where it is, and kills itself where `end` says so."""
    log = open(run_dir.with_name(f"{run_dir.name}.{rank}.log"), "w")  # noqa: SIM115
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    if case.num_processes > 1:
        os.environ |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(case.num_processes),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
        }
    _note_progress(marks)
    _note_saves(marks, end, one_save)
    raise SystemExit(run(case.stage, corpus, run_dir, *case.overrides, resume="auto"))


def _note_progress(marks: Any) -> None:
    from exo2ego.train import run as run_module

    build, record = run_module.build_run, Journal.record

    def build_and_note(*arguments: Any, **named: Any) -> Any:
        made = build(*arguments, **named)
        marks[STARTED_AT] = marks[STEP] = made.start_step
        return made

    def record_and_note(journal: Journal, step: int, values: dict[str, float]) -> None:
        record(journal, step, values)
        marks[STEP] = step

    run_module.build_run = build_and_note
    Journal.record = record_and_note  # type: ignore[method-assign]


def _note_saves(marks: Any, end: End, one_save: Save) -> None:
    from exo2ego.train import saving

    save, rotate = saving.save_checkpoint, saving.rotate_checkpoints
    operations = OperationCounter(marks)

    def save_and_note(*arguments: Any, **named: Any) -> Any:
        marks[SAVES] += 1
        marks[OPERATIONS] = 0
        marks[IN_SAVE] = 1
        marks[SAVING_SINCE] = time.monotonic()
        if end.after == marks[SAVES] and end.aim == "time in a save":
            threading.Timer(end.chance * 1.1 * one_save.seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
        elif end.after == marks[SAVES] and end.aim == "operation of a save":
            operations.left = 1 + int(end.chance * one_save.operations)
        return save(*arguments, **named)

    def rotate_and_note(*arguments: Any, **named: Any) -> None:
        rotate(*arguments, **named)
        marks[SAVE_S] = time.monotonic() - marks[SAVING_SINCE]
        marks[IN_SAVE] = 0

    saving.save_checkpoint, saving.rotate_checkpoints = save_and_note, rotate_and_note


class OperationCounter:
    """Counts what is done with files in a save, and kills this process before the `left`-th from when that was set."""

    def __init__(self, marks: Any) -> None:
        self.marks = marks
        self.left = 0
        sys.addaudithook(self._audit)
        fsync = os.fsync

        def counted_fsync(descriptor: int) -> None:
            self._count()
            fsync(descriptor)

        os.fsync = counted_fsync

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in FILE_EVENTS:
            self._count()

    def _count(self) -> None:
        if not self.marks[IN_SAVE]:
            return
        self.marks[OPERATIONS] += 1
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Outcome:
    """What a finished run is compared by."""

    losses: str
    """SHA-256 of every logged number of every step, as `float.hex`."""
    weights: str
    """SHA-256 of the trained tensors."""
    moments: str
    """SHA-256 of the state of optimiser and schedule."""
    files: tuple[str, ...]
    """The checkpoints and whatever else lies beside them."""


def outcome(run_dir: Path) -> Outcome:
    """Returns what a finished run left behind."""
    rows = [{key: float(value).hex() for key, value in row.items()} for row in metrics(run_dir)]
    newest = find_checkpoint(run_dir)
    moments = hashlib.sha256()
    _digest(load_optimizer_state(newest), moments)
    return Outcome(
        losses=hashlib.sha256(repr(rows).encode()).hexdigest(),
        weights=newest.identity,
        moments=moments.hexdigest(),
        files=tuple(sorted(path.name for path in (run_dir / "checkpoints").iterdir())),
    )


def _digest(value: Any, into: Any) -> None:
    if isinstance(value, dict):
        for key in sorted(value, key=str):
            into.update(str(key).encode())
            _digest(value[key], into)
    elif isinstance(value, list | tuple):
        for item in value:
            _digest(item, into)
    elif isinstance(value, Tensor):
        into.update(str((value.dtype, tuple(value.shape))).encode() + value.contiguous().numpy().tobytes())
    else:
        into.update(repr(value).encode())


def newest_step(run_dir: Path) -> int:
    """Returns the step of the newest checkpoint, 0 without one."""
    found = checkpoint_folders(run_dir)
    return int(found[-1].name.removeprefix("step_")) if found else 0
