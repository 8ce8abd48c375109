"""Stopping on request: Ctrl-C, SIGTERM or SIGUSR1 ends a run after its step and a save, a second one at once.

Under a launcher a second one changes nothing: the terminal or the scheduler tells every process, and so does the
launcher, which has its own means (SIGKILL) for a run that takes too long.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from exo2ego.command_line import is_launched

HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # SIGUSR1: what SLURM's --signal=USR1@120 sends before the end
EXIT_CODE_OF_SIGNAL = 128
"""A run that signal N stopped exits with 128 + N, as a shell reports it: 130 for Ctrl-C, 143 for SIGTERM."""


class StopRequest:
    """Hears the signals while it is entered; `number` is the one that came, or 0."""

    def __init__(self) -> None:
        self.number = 0
        self.trains = True
        """False during set-up, after which there is nothing to save."""

    def __enter__(self) -> StopRequest:
        self._former = {number: signal.signal(number, self._hear) for number in HEARD}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            if is_launched():
                return
            raise KeyboardInterrupt
        self.number = number
        # not through the console, which may be in the middle of a line
        more = b"" if is_launched() else b"; once more stops at once"
        when = b"after this step, with a checkpoint" if self.trains else b"before the first step"
        os.write(2, b"\nstopping " + when + more + b"\n")


def ignore_in_worker() -> None:
    """Keeps a loader worker alive through signals to the whole run, which ends it by SIGKILL."""
    for number in HEARD:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def ignored_by_new_processes() -> Iterator[None]:
    """What is started meanwhile ignores the signals from its first moment on; keep it short, so does this process."""
    former = {number: signal.signal(number, signal.SIG_IGN) for number in HEARD}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
