"""One life of a tiny evaluation: started in processes of its own, ended by SIGKILL somewhere, and what it leaves."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from eval import answering, egobench
from eval.answerers import exo2ego as exo2ego_answerer
from exo2ego.storage import JsonlAppender, read_json, read_jsonl
from scripts.reliability.lives import FILE_EVENTS, LONGEST_S, free_port, wait_for

Aim = Literal["never", "any time", "operation on a file", "middle of a line"]
Victims = Literal["one", "both"]
NUM_ANSWERS, NUM_OPERATIONS = range(2)
FILES = ("results.json", "results.csv", "results.md", "results.tex", "report.html")
PRELOADED = (__name__, answering.__name__, exo2ego_answerer.__name__)
"""Imported once, by the process that all others are forked from: a life costs what the evaluation costs."""


@dataclass(frozen=True)
class End:
    """How a life is to end: `chance` in [0, 1) says where, as a share of an undisturbed life."""

    aim: Aim
    chance: float = 0.0
    victims: Victims = "one"

    @classmethod
    def drawn(cls, chance: random.Random) -> End:
        """Returns a SIGKILL somewhere."""
        aims: tuple[Aim, ...] = ("any time", "operation on a file", "middle of a line")
        return cls(chance.choice(aims), chance.random(), chance.choice(("one", "both")))


@dataclass(frozen=True)
class Life:
    """What an undisturbed one takes."""

    seconds: float = 0.0
    num_answers: int = 0
    num_operations: int = 0


@dataclass(frozen=True)
class Death:
    """What the parent saw."""

    exit_codes: list[int | None]
    life: Life

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return set(self.exit_codes) == {0}


def live(arguments: list[str], log: Path, num_processes: int, end: End, chance: random.Random, whole: Life) -> Death:
    """Runs or continues an evaluation until its end or `end`, whichever comes first."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    port, died, began = free_port(), chance.randrange(num_processes), time.monotonic()
    marks = [context.RawArray("q", 2) for _ in range(num_processes)]
    ranks = []
    for rank in range(num_processes):
        own = end if rank == died else End("never")
        ranks.append(
            context.Process(target=_live, args=(arguments, log, rank, num_processes, port, marks[rank], own, whole))
        )
        ranks[rank].start()
    if end.aim == "any time":
        wait_for(lambda: time.monotonic() > began + end.chance * whole.seconds, ranks)
        _kill(ranks[died])
    wait_for(lambda: any(process.exitcode is not None for process in ranks), ranks)
    if any(process.exitcode for process in ranks):
        if end.victims == "one":  # what torchrun does: it finds one dead after a while, and ends the others
            time.sleep(chance.random() * 0.3)
            for process in ranks:
                process.terminate()
        for process in ranks:
            _kill(process)
    for process in ranks:
        process.join(LONGEST_S)
        _kill(process)
        process.join()
    told = [sum(mark[number] for mark in marks) for number in (NUM_ANSWERS, NUM_OPERATIONS)]
    return Death([process.exitcode for process in ranks], Life(time.monotonic() - began, *told))


def _kill(process: Any) -> None:
    if process.exitcode is None:
        os.kill(process.pid, signal.SIGKILL)


def _live(
    arguments: list[str], log: Path, rank: int, num_processes: int, port: int, marks: Any, end: End, whole: Life
) -> None:
    """The process: counts what it does, and kills itself where `end` says so."""
    output = os.open(log.with_name(f"{log.name}.{rank}.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if num_processes > 1:
        ranks = {"WORLD_SIZE": str(num_processes), "RANK": str(rank), "LOCAL_RANK": str(rank)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **ranks}
    torch.set_num_threads(1)  # several processes share the cores, with whatever else runs
    folder = next(word.partition("=")[2] for word in arguments if word.startswith("output="))
    _count_operations(marks, folder, end, whole, num_processes)
    _count_answers(marks, end, whole, num_processes)
    raise SystemExit(egobench.main(arguments))


def _place(end: End, aim: Aim, count: int, num_processes: int) -> int:
    """Returns the number, from 1, of the thing before which to die; 0: never."""
    return 1 + int(end.chance * count / num_processes) if end.aim == aim else 0


def _count_operations(marks: Any, folder: str, end: End, whole: Life, num_processes: int) -> None:
    """Counts what is done with files of the output folder, whose temporary siblings and neighbours it includes."""
    last = _place(end, "operation on a file", whole.num_operations, num_processes)

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in FILE_EVENTS or not str(arguments[0]).startswith(folder):
            return
        marks[NUM_OPERATIONS] += 1
        if marks[NUM_OPERATIONS] == last:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)


def _count_answers(marks: Any, end: End, whole: Life, num_processes: int) -> None:
    last = _place(end, "middle of a line", whole.num_answers, num_processes)
    append = JsonlAppender.append

    def append_and_note(self: JsonlAppender, row: dict[str, Any]) -> None:
        marks[NUM_ANSWERS] += 1
        if marks[NUM_ANSWERS] == last:
            stream = self._stream
            stream.write(str(row)[: int(end.chance * 400)])
            stream.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        append(self, row)

    JsonlAppender.append = append_and_note  # type: ignore[method-assign]


@dataclass(frozen=True)
class Outcome:
    """What a finished evaluation is compared by."""

    num_lines: int
    """Lines of predictions, whichever they are."""
    answers: dict[tuple[str, str], str]
    """By question and mode: all that is in the line but the time that it took, numbers as `float.hex`."""
    key: dict[str, Any]
    questions: bytes
    reports: dict[str, bytes]
    """By file: its bytes."""
    files: tuple[str, ...]
    """Whatever lies in the folder."""
    others: dict[str, dict[tuple[str, str], str]] = field(default_factory=dict)
    """By name: the answers of another run that was moved aside."""


def outcome(output: Path) -> Outcome:
    """Returns what a finished evaluation left behind."""
    rows = list(read_jsonl(output / "predictions.jsonl"))
    return Outcome(
        num_lines=len(rows),
        answers=_answers(rows),
        key=read_json(output / "run.json")["key"],
        questions=(output / "questions.jsonl").read_bytes(),
        reports={name: (output / name).read_bytes() for name in FILES},
        files=tuple(sorted(path.name for path in output.iterdir())),
        others={
            path.name.removeprefix(output.name): _answers(list(read_jsonl(path / "predictions.jsonl")))
            for path in sorted(output.parent.glob(f"{output.name}.earlier-*"))
        },
    )


def _answers(rows: list[dict[str, Any]]) -> dict[tuple[str, str], str]:
    found = {}
    for row in rows:
        scores = [float(score).hex() for score in row.pop("option_scores") or []]
        del row["seconds"]
        found[row["id"], row["mode"]] = repr((scores, sorted(row.items())))
    return found
