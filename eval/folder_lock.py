"""Keeps a second run out of a folder that one is writing into."""

from __future__ import annotations

import contextlib
import errno
import fcntl
from collections.abc import Iterator
from pathlib import Path

from exo2ego.console import error_console
from exo2ego.errors import EvaluationError

LOCK_FILE = ".lock"
_NO_LOCKS = {errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK}


@contextlib.contextmanager
def locked(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Holds the folder's lock, which the system releases however this process ends; the folder is made if need be.

    `shared` lets the other processes of one run in. Raises `EvaluationError` while another run holds it. A file system
    without locks is said, and the run goes on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("a") as lock:
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EvaluationError(
                f"{folder}: another run is writing into this folder; wait for its end or stop it, or give another "
                "folder as output=…"
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            error_console.print(
                f"{folder}: this file system has no locks: let no second run write into this folder", markup=False
            )
        yield
