"""Work that is spread over processes, in order, and leaves none of them behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import FrameType
from typing import TypeVar

from exo2ego.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, root: Path
) -> Iterator[Result]:
    """Yields `function(item)` in order, with one worker from this process; raises `DataError` for a killed worker."""
    if workers == 1:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_follow_parent)
    handler = signal.signal(signal.SIGINT, _interrupt_once)
    try:
        yield from executor.map(function, items)
    except BrokenProcessPool as error:
        raise DataError(
            f"{root}: a rendering process was killed (out of memory?); what is finished is kept; "
            "run again, with fewer --workers"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)
        signal.signal(signal.SIGINT, handler)


def _interrupt_once(signal_number: int, frame: FrameType | None) -> None:
    """Raises `KeyboardInterrupt` and ignores a second Ctrl-C: it would leave the pool waiting for its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _follow_parent() -> None:
    """Ctrl-C is handled by the parent alone; a worker whose parent was killed leaves, too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:

        def leave_with_parent() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=leave_with_parent, daemon=True).start()
