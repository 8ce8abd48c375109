"""Reading ahead: the micro-batches of one process, from any step on."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator

from exo2ego.data.batch import Batch, Collator
from exo2ego.data.pairing import MicroBatches
from exo2ego.train.preparation import Prepared
from exo2ego.train.workers import Restarts, Worker

AHEAD = 2
"""Micro-batches that every worker process may be ahead."""


class Loader:
    """The micro-batches of one process in their order, read ahead by worker processes (none: when asked for).

    A worker that dies or hangs is replaced and what it owed is read again, so that none is lost and none comes twice.
    """

    def __init__(
        self,
        samples: Any,
        collate: Collator,
        micro_batches: MicroBatches,
        *,
        num_workers: int,
        timeout_s: float | None,
        restarts: Restarts,
    ) -> None:
        self.samples = samples
        self.collate = collate
        self.micro_batches = micro_batches
        self.num_workers = num_workers
        self.timeout_s = timeout_s
        self.restarts = restarts

    def __len__(self) -> int:
        """Returns the number of micro-batches."""
        return len(self.micro_batches)

    def __iter__(self) -> Iterator[Batch]:
        """Yields the micro-batches; raises what reading them raises. Closing it ends the processes.

        Where there is a GPU they are copied to page-locked memory, here and not ahead: that takes this process's time.
        """
        pins = torch.cuda.is_available()
        with closing(self._read_ahead() if self.num_workers else self._read()) as batches:
            for batch in batches:
                yield batch.pin_memory() if pins else batch

    def _read(self) -> Generator[Batch, None, None]:
        yield from (self.collate([self.samples[sample] for sample in wanted]) for wanted in self.micro_batches)

    def _read_ahead(self) -> Generator[Batch, None, None]:
        workers: list[Worker] = []
        try:
            for number in range(min(self.num_workers, len(self))):
                one = Worker(number, self.samples, self.collate, timeout_s=self.timeout_s, restarts=self.restarts)
                workers.append(one)
            upcoming = enumerate(self.micro_batches)
            for number, wanted in islice(upcoming, AHEAD * len(workers)):
                workers[number % len(workers)].ask(number, wanted)
            for number in range(len(self)):
                worker = workers[number % len(workers)]
                batch = worker.receive()
                for following, wanted in islice(upcoming, 1):
                    worker.ask(following, wanted)
                yield batch
        finally:
            for worker in workers:
                worker.close()


def open_loader(prepared: Prepared, accelerator: Accelerator, start_step: int) -> Loader:
    """Returns the micro-batches of this process after `start_step`, decoded ahead by worker processes."""
    data, plan = prepared.stage.config.data, prepared.plan
    micro_batches = MicroBatches(
        prepared.order,
        local_size=plan.local_size,
        accumulation=plan.accumulation,
        process_index=accelerator.process_index,
        num_processes=accelerator.num_processes,
        start_step=start_step,
        end_step=plan.total_steps,
    )
    return Loader(
        prepared.samples,
        prepared.collate,
        micro_batches,
        num_workers=data.num_workers,
        timeout_s=data.timeout_s,
        restarts=Restarts(data.max_worker_restarts, accelerator.process_index),
    )
