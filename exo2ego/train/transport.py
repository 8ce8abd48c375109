"""Values sent between two processes: their tensors lie in memory that is gone as soon as nobody uses it.

Nothing is needed of the sender once a message is sent: it may die or hang, where torch's own way would wait for it.
/dev/shm is not used: its size is no limit, and a kill leaves nothing there. Linux only (memfd).
"""

from __future__ import annotations

import errno
import io
import mmap
import os
import pickle
import socket
import struct
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

ALIGNMENT = 64
"""Bytes; what torch aligns its own memory to."""


def send(channel: socket.socket, value: Any) -> None:
    """Sends a value in one message that is either there or not; raises `OSError` when the other side is gone."""
    buffers: list[pickle.PickleBuffer] = []
    head = io.BytesIO()
    _Pickler(head, protocol=5, buffer_callback=buffers.append).dump(value)
    pieces = [head.getbuffer(), *(buffer.raw() for buffer in buffers)]
    layout = struct.pack(f"<{1 + len(pieces)}Q", len(pieces), *(piece.nbytes for piece in pieces))
    descriptor = os.memfd_create("batch")
    try:
        with open(descriptor, "wb", buffering=0, closefd=False) as memory:
            for piece in (memoryview(layout), *pieces):
                _write_all(memory, piece)
                memory.seek(-memory.tell() % ALIGNMENT, os.SEEK_CUR)
            memory.truncate()
        socket.send_fds(channel, [b"."], [descriptor])
    finally:
        os.close(descriptor)


def receive(channel: socket.socket) -> Any:
    """Returns the next value; raises `EOFError` or `OSError` when the other side is gone."""
    text, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
    if text and not descriptors:
        raise OSError(errno.EMFILE, "a message came without its memory: too many open files (ulimit -n)")
    if not text:
        raise EOFError("the other process is gone")
    try:
        memory = memoryview(mmap.mmap(descriptors[0], 0))
    finally:
        os.close(descriptors[0])
    (count,) = struct.unpack_from("<Q", memory)
    sizes = struct.unpack_from(f"<{count}Q", memory, 8)
    start, pieces = 8 * (1 + count), []
    for size in sizes:
        start += -start % ALIGNMENT
        pieces.append(memory[start : start + size])
        start += size
    return pickle.loads(pieces[0], buffers=pieces[1:])


class _Pickler(pickle.Pickler):
    """Leaves the content of tensors out of the pickle."""

    def reducer_override(self, value: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        if isinstance(value, Tensor):
            return torch.from_numpy, (value.detach().contiguous().numpy(),)
        return NotImplemented


def _write_all(memory: io.RawIOBase, piece: memoryview) -> None:
    while piece.nbytes:  # one call writes at most 2 GB
        piece = piece[memory.write(piece) or 0 :]
