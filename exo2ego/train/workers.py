"""A process that reads micro-batches ahead; when it dies or hangs, another one reads what it still owed."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
import signal
import socket
import threading
import time
import traceback
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import torch

from exo2ego.console import error_console
from exo2ego.data.batch import Batch, Collator
from exo2ego.data.datasets import ClipReader
from exo2ego.data.pairing import Sample
from exo2ego.data.processor import Exo2EgoProcessor
from exo2ego.data.spans import Span
from exo2ego.errors import DataError, Exo2EgoError, VideoError
from exo2ego.train.stopping import ignore_in_worker, ignored_by_new_processes
from exo2ego.train.transport import receive, send

START_S = 300.0
"""What a new process may take to import everything, at least; `timeout_s` counts from then on."""
LOOK_EVERY_S = 1.0
NO_EXIT_CODE = 255
"""What multiprocessing returns for a process, dead or alive, whose fork server has died."""
PATH_BYTES = 4096


class Place(NamedTuple):
    """The reading of one video."""

    micro_batch: int
    sample: int
    """Its number in the micro-batch, from 1."""
    video: int
    """Its number in the sample, from 1."""


@dataclass(frozen=True)
class Fault:
    """What happened to a process: `reason` is the failure log's word for the video that it was reading."""

    reason: str
    detail: str


@dataclass
class Restarts:
    """How often the processes of one rank may be replaced, and the videos that it has given up."""

    allowed: int
    rank: int
    count: int = 0
    given_up: dict[str, Fault] = field(default_factory=dict)
    """By the video's path, until the run ends: its next samples are unreadable without another process's death."""

    def record(self, worker: int, fault: Fault, reading: str) -> None:
        """Counts and reports one; raises `DataError` when there were too many."""
        self.count += 1
        where = self._where(worker, fault, reading)
        if self.count > self.allowed:
            raise DataError(
                f"{where}; data workers were replaced {self.allowed} times already, as often as "
                "data.max_worker_restarts allows: look for too little memory (dmesg), a decoder that crashes, or "
                "storage that does not answer, then continue with --resume auto"
            )
        again = f"replaced ({self.count} of at most {self.allowed} times); what it was to read is read again"
        error_console.print(f"{where}: {again}", markup=False)

    def give_up(self, worker: int, fault: Fault, reading: str, video: str, *, counted: int) -> None:
        """Reports a video as given up; takes back what was `counted` for it, which the failure budget counts now."""
        self.count -= counted
        self.given_up.setdefault(video, fault)
        where = self._where(worker, fault, reading)
        error_console.print(f"{where}: {video} is given up, unreadable from now on", markup=False)

    def _where(self, worker: int, fault: Fault, reading: str) -> str:
        return f"data worker {worker} of process {self.rank} {fault.detail}{reading}"


class Worker:
    """One process and the micro-batches that it owes, in the order in which they were asked for."""

    def __init__(
        self, number: int, samples: Any, collate: Collator, *, timeout_s: float | None, restarts: Restarts
    ) -> None:
        self.number = number
        self.timeout_s = timeout_s
        self.restarts = restarts
        self._job = (samples, collate)
        self._owed: deque[tuple[int, list[Sample]]] = deque()
        self._suspects: set[Place] = set()
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])  # all are forked from one that has imported torch
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._progress = context.RawArray("d", 4)
        self._path = context.RawArray("c", PATH_BYTES)
        arguments = (*self._job, theirs, self._progress, self._path)
        with ignored_by_new_processes():  # a signal for all processes would end the server, and so seem to end all
            multiprocessing.forkserver.ensure_running()
        self._process: BaseProcess = context.Process(target=read_micro_batches, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self._since = time.monotonic()

    def ask(self, micro_batch: int, samples: list[Sample]) -> None:
        """Asks for a micro-batch; `receive` will return it."""
        if not self._owed:
            self._since = time.monotonic()
        self._owed.append((micro_batch, samples))
        self._send(micro_batch, samples)

    def _send(self, micro_batch: int, samples: list[Sample]) -> None:
        try:
            send(self._channel, (micro_batch, samples, self.restarts.given_up))
        except (BrokenPipeError, ConnectionResetError):
            return  # it is dead: whoever waits for its answer sees that, and asks another one

    def receive(self) -> Batch:
        """Returns the next micro-batch asked for, by another process where this one dies or hangs.

        A video at which that happens twice in one sample is given up, in later samples too: unreadable, for the reason
        decoder_died or timeout. Raises
        what reading raised, and `DataError` when processes were replaced too often.
        """
        while True:
            answer = self._wait()
            if isinstance(answer, Fault):
                self._replace(answer)
                continue
            self._owed.popleft()
            self._since = time.monotonic()
            if isinstance(answer, Batch):
                return answer
            raise answer

    def _wait(self) -> Batch | Exception | Fault:
        while True:
            ready = wait([self._channel, self._process.sentinel], timeout=LOOK_EVERY_S)
            if self._channel in ready:
                try:
                    answer: Batch | Exception = receive(self._channel)
                    return answer
                except (EOFError, ConnectionResetError):
                    return self._death()
            if ready:
                return self._death()
            if (fault := self._hang()) is not None:
                return fault

    def _death(self) -> Fault:
        self._process.join(timeout=10)
        code = self._process.exitcode
        if code is None:
            return Fault("decoder_died", "closed its channel")
        cause = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return Fault("decoder_died", cause)

    def _hang(self) -> Fault | None:
        if self.timeout_s is None:
            return None
        started = self._progress[3] > 0
        allowed_s = self.timeout_s if started else max(START_S, self.timeout_s)
        if time.monotonic() - max(self._since, self._progress[3]) <= allowed_s:
            return None
        return Fault("timeout", f"made no progress in {allowed_s:g} s" + (" (data.timeout_s)" if started else ""))

    def _replace(self, fault: Fault) -> None:
        micro_batch, sample, video = (int(value) for value in self._progress[:3])
        place = Place(micro_batch, sample, video) if video and micro_batch == self._owed[0][0] else None
        path = os.fsdecode(self._path.value)
        self.close()
        row = self._owed[0][1][sample - 1].index
        reading = f" at video {video} of row {row} of data.table" if place else ""
        # given up already: this process was asked for it before that
        if place is not None and (place in self._suspects or path in self.restarts.given_up):
            self.restarts.give_up(self.number, fault, reading, path, counted=int(place in self._suspects))
            self._suspects.discard(place)
        else:
            self.restarts.record(self.number, fault, reading)
            if place is not None:
                self._suspects.add(place)
        self._start()
        for owed in self._owed:
            self._send(*owed)

    def close(self) -> None:
        """Ends the process; SIGKILL also reaches one that is stopped or hangs in a decoder."""
        pid = self._process.pid
        if pid is not None and self._process.exitcode in (None, NO_EXIT_CODE):  # else its number may be another's
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.join(timeout=10)
        self._channel.close()


class WatchedReader:
    """A `ClipReader` that says which video it is at, and gives up the ones that cost earlier processes their lives."""

    def __init__(self, reader: ClipReader, progress: Any, path: Any) -> None:
        self.reader = reader
        self.progress = progress
        self.path = path
        self.given_up: dict[str, Fault] = {}

    @property
    def processor(self) -> Exo2EgoProcessor:
        """Returns the reader's processor."""
        return self.reader.processor

    def begin(self, micro_batch: int, sample: int) -> None:
        """Says which sample comes next."""
        self.progress[2] = 0
        self.progress[:2] = [micro_batch, sample]
        self.progress[3] = time.monotonic()

    def pixels(self, span: Span, *how: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns what the reader returns; raises `VideoError` for a video that was given up."""
        self.path.value = os.fsencode(span.video)[: PATH_BYTES - 1]
        self.progress[2] += 1
        self.progress[3] = time.monotonic()
        fault = self.given_up.get(span.video)
        if fault is not None:
            raise VideoError(span.video, fault.reason, f"cannot be read: a data worker {fault.detail} at it, twice")
        return self.reader.pixels(span, *how)


def read_micro_batches(samples: Any, collate: Collator, channel: socket.socket, progress: Any, path: Any) -> None:
    """The process: answers every (micro-batch number, samples, given-up videos) with a `Batch` or an exception.

    `progress` (a `Place` and when it was reached) and `path` (its video) are memory shared with the run.
    """
    ignore_in_worker()
    torch.set_num_threads(1)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    samples.reader = watched = WatchedReader(samples.reader, progress, path)
    progress[3] = time.monotonic()
    try:
        while True:
            micro_batch, wanted, watched.given_up = receive(channel)
            try:
                items = []
                for number, sample in enumerate(wanted, 1):
                    watched.begin(micro_batch, number)
                    items.append(samples[sample])
                watched.begin(micro_batch, 0)
                answer: Batch | Exception = collate(items)
            except Exo2EgoError as error:
                answer = error
            except Exception as error:
                answer = RuntimeError("in a data worker: " + "".join(traceback.format_exception(error)))
            send(channel, answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the run is gone


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)  # also out of a decoder that does not return
