"""Values that threads read ahead, in order; one that hangs is given up, which no pool of threads can do."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
GOODBYE_S = 10.0
"""How long the readings under way are waited for when nobody wants them any more."""


class Reading(Generic[Result]):
    """One value that is being read. Its thread does not keep the program from ending."""

    def __init__(self, read: Callable[[], Result]) -> None:
        self._outcome: list[Result] = []
        self._error: BaseException | None = None
        self._began_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, args=(read,), daemon=True)
        self._thread.start()

    def _run(self, read: Callable[[], Result]) -> None:
        try:
            self._outcome = [read()]
        except BaseException as error:  # raised where the value is wanted
            self._error = error

    def is_read_within(self, timeout_s: float) -> bool:
        """Waits and returns whether it was read within `timeout_s` of its beginning."""
        self.wait_until(self._began_s + timeout_s)
        return not self._thread.is_alive()

    def wait_until(self, time_s: float) -> None:
        """Waits for its end, at most until a time of the monotonic clock."""
        self._thread.join(max(0.0, time_s - time.monotonic()))

    def result(self) -> Result:
        """Returns the value, or raises what reading it raised."""
        if self._error is not None:
            raise self._error
        return self._outcome[0]


def read_in_order(
    read: Callable[[Item], Result],
    items: Iterable[Item],
    num_threads: int,
    timeout_s: float,
    late: Callable[[Item], Result],
) -> Iterator[Result]:
    """Yields `read(item)` in the order of the items, up to `num_threads` ahead; `late(item)` for one that takes longer.

    Without threads each value is read when it is asked for, however long that takes.
    """
    if not num_threads:
        yield from map(read, items)
        return
    waiting: deque[tuple[Item, Reading[Result]]] = deque()

    def first() -> Result:
        item, reading = waiting.popleft()
        return reading.result() if reading.is_read_within(timeout_s) else late(item)

    try:
        for item in items:
            waiting.append((item, Reading(lambda item=item: read(item))))  # type: ignore[misc]
            if len(waiting) > num_threads:
                yield first()
        while waiting:
            yield first()
    finally:
        goodbye_s = time.monotonic() + GOODBYE_S
        for _, reading in waiting:
            reading.wait_until(goodbye_s)
