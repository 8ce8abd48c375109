"""Work spread over threads, a few items ahead, so that an interrupt is answered at once and memory stays flat."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
WAITING_PER_WORKER = 4


def in_threads(function: Callable[[Item], Result], items: Iterable[Item], num_workers: int) -> Iterator[Result]:
    """Yields the results of `function` as they come, in no order; an error of `function` is raised here."""
    pool = ThreadPoolExecutor(num_workers)
    waiting: set[Future[Result]] = set()
    try:
        for item in items:
            waiting.add(pool.submit(function, item))
            if len(waiting) >= num_workers * WAITING_PER_WORKER:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        yield from (future.result() for future in wait(waiting).done)
    finally:
        pool.shutdown(cancel_futures=True)


def in_order(function: Callable[[Item], Result], items: Iterable[Item], num_workers: int) -> Iterator[Result]:
    """Yields the results of `function` in the order of `items`, computed a few ahead; an error is raised at its turn.

    Without workers each result is computed when it is asked for.
    """
    if not num_workers:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(num_workers)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > num_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
