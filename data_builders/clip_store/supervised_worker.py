"""A child process that reads hostile videos: one that dies or hangs costs its video, not the run."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
from concurrent.futures import CancelledError
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, NamedTuple

from data_builders.clip_store.video_step import VideoJob, VideoStep
from exo2ego.errors import DataError, Exo2EgoError, VideoError

ATTEMPTS = 2
"""A worker may die through no fault of its video (killed for memory by the system): the video gets a second one."""
START_LIMIT_S = 300.0
STOP_LIMIT_S = 5.0


class Limits(NamedTuple):
    """How long a worker may be silent, and how much memory it may take beyond what it starts with."""

    deadline_s: float
    memory_bytes: int


class SupervisedWorker:
    """Runs one video at a time in a child process, which is replaced when it dies or hangs."""

    def __init__(self, step: VideoStep, limits: Limits) -> None:
        self.step = step
        self._limits = limits
        self._process: SpawnProcess | None = None
        self._connection: Connection[Any, Any] | None = None
        self._stopped = False

    @property
    def process_id(self) -> int | None:
        """Returns the child's process id, None where none runs."""
        return self._process.pid if self._process is not None else None

    def run(self, job: VideoJob) -> int:
        """Returns what the step returns; where no child survives the video, its spans are written down as failed.

        Raises what the step raises beside `VideoError`: a full disk, a missing package.
        """
        for attempt in range(ATTEMPTS):
            failure = self._try(job)
            if isinstance(failure, int):
                return failure
            if self._stopped:
                raise CancelledError
            if attempt + 1 == ATTEMPTS:
                return self.step.give_up(job, failure)
        raise AssertionError("unreachable")

    def stop(self) -> None:
        """Kills the child, from any thread; a `run` in progress raises `CancelledError`."""
        self._stopped = True
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """Ends the child and waits for its end; no `run` may be in progress."""
        self._end()

    def _try(self, job: VideoJob) -> int | VideoError:
        path = self.step.root / job.video
        try:
            connection = self._start()
            connection.send(job)
            while connection.poll(self._limits.deadline_s):
                answer = connection.recv()
                if isinstance(answer, MemoryError):
                    self._end()
                    limit_gb = self._limits.memory_bytes / 1e9
                    return VideoError(path, "out_of_memory", f"reading it takes more than {limit_gb:g} GB")
                if isinstance(answer, Exception):
                    raise answer
                if answer is not None:  # None is a sign of life
                    return int(answer)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return VideoError(path, "worker_died", f"the process that read it died ({self._end()})")
        self._end()
        return VideoError(path, "timeout", f"reading it gave no sign of life for {self._limits.deadline_s:g} s")

    def _start(self) -> Connection[Any, Any]:
        if self._stopped:
            raise CancelledError
        if self._connection is not None:
            return self._connection
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self.step, self._limits), daemon=True)
        self._process.start()
        theirs.close()
        if not self._connection.poll(START_LIMIT_S):
            raise DataError(f"a worker process did not start within {START_LIMIT_S:.0f} s: is the machine overloaded?")
        self._connection.recv()
        return self._connection

    def _end(self) -> str:
        process, self._process = self._process, None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if process is None:
            return "not started"
        process.join(0.2)
        process.kill()
        process.join()
        code = process.exitcode or 0
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _serve(connection: Connection[Any, Any], step: VideoStep, limits: Limits) -> None:
    """The child: takes jobs until its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    os.environ["OMP_NUM_THREADS"] = "1"  # the workers are the parallelism
    step.fit()  # imports torch before memory is limited
    _limit_memory(limits.memory_bytes)
    connection.send(None)
    last_beat_s = time.monotonic()

    def beat() -> None:
        nonlocal last_beat_s
        if time.monotonic() - last_beat_s > limits.deadline_s / 10:
            last_beat_s = time.monotonic()
            # Where the parent is gone, nobody else ends a decoder that hangs.
            signal.setitimer(signal.ITIMER_REAL, 2 * limits.deadline_s)
            connection.send(None)

    try:
        while True:
            job: VideoJob = connection.recv()
            signal.setitimer(signal.ITIMER_REAL, 2 * limits.deadline_s)
            connection.send(_answer(step, job, beat))
            signal.setitimer(signal.ITIMER_REAL, 0)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _answer(step: VideoStep, job: VideoJob, beat: Any) -> int | Exception:
    try:
        return step.run(job, beat)
    except (BrokenPipeError, ConnectionResetError):
        raise
    except (MemoryError, Exo2EgoError, OSError) as error:
        return error


def _limit_memory(extra_bytes: int) -> None:
    """Limits the address space to what is mapped now and `extra_bytes`, where the system says what is mapped."""
    statistics = Path("/proc/self/statm")
    if statistics.exists():
        mapped = int(statistics.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + extra_bytes, resource.getrlimit(resource.RLIMIT_AS)[1]))
