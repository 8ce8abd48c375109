"""decord as a decoder, in a process of its own: it aborts or hangs on some damaged files, and only that one dies.

Its libraries also get in the way of PyAV's when both are loaded into one process (libvpx then refuses to encode).
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exo2ego.data.decoders import FloatArray, FrameArray, require_start_inside
from exo2ego.data.decoders.pyav import PyAVReader
from exo2ego.errors import VideoError

CHILD_PATH = Path(__file__).with_name("decord_child.py")
DEADLINE_S = 60.0  # per request


class DecordReader:
    """Reads a video file with decord, by presentation times; the file is opened by PyAV first.

    decord follows playlists disguised as .mp4 and repeats frames where a file is cut off; PyAV refuses both. Raises
    `VideoError`: as `PyAVReader`, and decoder_died, timeout.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._guard = PyAVReader(path)
        try:
            intervals_s = _child(os.getpid()).ask(path, {"open": str(path)})
        except BaseException:
            self._guard.close()
            raise
        if intervals_s.size == 0 or not np.all(np.diff(intervals_s[:, 0]) > 0):
            self._guard.close()
            raise VideoError(path, "unreadable", "decord gives no frame times for it (AVI?): use the pyav decoder")
        self._times_s: FloatArray = intervals_s[:, 0]
        self._end_s = float(intervals_s[-1, 1])

    def list_frames(self, start_s: float | None, end_s: float | None) -> FloatArray:
        """Returns the times [n] in seconds of all frames of the file."""
        self._guard.list_frames(start_s, end_s)
        require_start_inside(self._path, start_s, self._end_s)
        return self._times_s

    def read(self, indices: Sequence[int]) -> FrameArray:
        """Returns the frames [len(indices), H, W, 3], uint8 RGB, upright."""
        frames: FrameArray = _child(os.getpid()).ask(self._path, {"read": list(indices)})
        return frames

    def close(self) -> None:
        """Releases PyAV's handle; the child lets its file go when the next one is opened."""
        self._guard.close()


class _Child:
    """The child process and the pipe to it."""

    def __init__(self) -> None:
        command = [sys.executable, str(CHILD_PATH)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)

    def ask(self, path: Path, request: dict[str, Any]) -> npt.NDArray[Any]:
        """Returns the answer; a child that dies or does not answer in time is a `VideoError`, and is replaced."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = threading.Timer(DEADLINE_S, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            header = json.loads(self._process.stdout.readline())
            if "error" in header:
                raise VideoError(path, "damaged", f"decord: {header['error']}")
            array: npt.NDArray[Any] = np.empty(header["shape"], dtype=header["dtype"])
            body = self._process.stdout.read(array.nbytes)
            array[...] = np.frombuffer(body, dtype=array.dtype).reshape(array.shape)
            return array
        except (OSError, ValueError) as error:  # the pipe is closed, or its last answer is cut off
            _child.cache_clear()
            raise self._death(path, timed_out=not timer.is_alive()) from error
        finally:
            timer.cancel()

    def _death(self, path: Path, *, timed_out: bool) -> VideoError:
        self._process.kill()
        code = self._process.wait()
        if timed_out:
            return VideoError(path, "timeout", f"decord gave no answer in {DEADLINE_S:.0f} s")
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return VideoError(path, "decoder_died", f"decord's process died ({cause}): use the pyav decoder")


@functools.lru_cache(maxsize=1)
def _child(process_id: int) -> _Child:
    """Returns this process's child: a pipe inherited through a fork would be read by two."""
    del process_id
    return _Child()
