"""A process that reads micro-batches ahead; when it dies or hangs, another one reads what it still owed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
import time
import traceback
from collections import deque
from dataclasses import dataclass
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
from exo2ego.train.stopping import ignore_in_worker
from exo2ego.train.transport import receive, send

START_S = 300.0
"""What a new process may take to import everything, at least; `timeout_s` counts from then on."""
LOOK_EVERY_S = 1.0


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
    """How often the processes of one rank may be replaced."""

    allowed: int
    rank: int
    count: int = 0

    def record(self, worker: int, fault: Fault, reading: str) -> None:
        """Counts and reports one; raises `DataError` when there were too many."""
        self.count += 1
        where = f"data worker {worker} of process {self.rank} {fault.detail}{reading}"
        if self.count > self.allowed:
            raise DataError(
                f"{where}; data workers were replaced {self.allowed} times already, as often as "
                "data.max_worker_restarts allows: look for too little memory (dmesg), a decoder that crashes, or "
                "storage that does not answer, then continue with --resume auto"
            )
        again = f"replaced ({self.count} of at most {self.allowed} times); what it was to read is read again"
        error_console.print(f"{where}: {again}", markup=False)


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
        self._given_up: dict[Place, Fault] = {}
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])  # all are forked from one that has imported torch
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._progress = context.RawArray("d", 4)
        arguments = (*self._job, theirs, self._progress)
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
        given_up = {place: fault for place, fault in self._given_up.items() if place.micro_batch == micro_batch}
        try:
            send(self._channel, (micro_batch, samples, given_up))
        except OSError:
            return  # it is dead: whoever waits for its answer sees that, and asks another one

    def receive(self) -> Batch:
        """Returns the next micro-batch asked for, by another process where this one dies or hangs.

        A video at which that happens twice is given up: unreadable, for the reason decoder_died or timeout. Raises
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
                except (EOFError, OSError):
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
        self.close()
        row = self._owed[0][1][sample - 1].index
        self.restarts.record(self.number, fault, f" at video {video} of row {row} of data.table" if place else "")
        if place is not None and place in self._suspects:
            self._given_up[place] = fault
        elif place is not None:
            self._suspects.add(place)
        self._start()
        for owed in self._owed:
            self._send(*owed)

    def close(self) -> None:
        """Ends the process; SIGKILL also reaches one that is stopped or hangs in a decoder."""
        self._process.kill()
        self._process.join(timeout=10)
        self._channel.close()


class WatchedReader:
    """A `ClipReader` that says which video it is at, and gives up the ones that cost earlier processes their lives."""

    def __init__(self, reader: ClipReader, progress: Any) -> None:
        self.reader = reader
        self.progress = progress
        self.given_up: dict[Place, Fault] = {}

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
        self.progress[2] += 1
        self.progress[3] = time.monotonic()
        fault = self.given_up.get(Place(*(int(value) for value in self.progress[:3])))
        if fault is not None:
            raise VideoError(span.video, fault.reason, f"cannot be read: a data worker {fault.detail} here, twice")
        return self.reader.pixels(span, *how)


def read_micro_batches(samples: Any, collate: Collator, channel: socket.socket, progress: Any) -> None:
    """The process: answers every (micro-batch number, samples, given-up videos) with a `Batch` or an exception."""
    ignore_in_worker()
    torch.set_num_threads(1)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    samples.reader = watched = WatchedReader(samples.reader, progress)
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
    except (EOFError, OSError):
        return  # the run is gone


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)  # also out of a decoder that does not return
