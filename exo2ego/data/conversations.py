"""The conversation table on disk (EgoIT): one JSON object per line, a row decoded when it is asked for."""

from __future__ import annotations

import os
import threading
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy
from numpy.typing import NDArray
from pydantic import ValidationError

from exo2ego.errors import DataError
from exo2ego.records import Conversation
from exo2ego.storage import parse_row

WHAT = "conversation table"


class ConversationTable(Sequence[Conversation]):
    """A conversation table as a sequence of `Conversation` in 8 bytes of memory per row; pickles without its rows.

    Rows are read from the file as it was when it was opened: one that has changed since is refused (`DataError`).
    """

    def __init__(self, path: Path, offsets: NDArray[numpy.int64], state: list[int]) -> None:
        self.path = path
        self._offsets = offsets  # where every row starts, and the end of the file
        self._state = state
        self._stream: BinaryIO | None = None
        self._opening = threading.Lock()

    def __len__(self) -> int:
        """Returns the number of conversations."""
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Conversation: ...
    @overload
    def __getitem__(self, index: slice) -> list[Conversation]: ...
    def __getitem__(self, index: int | slice) -> Conversation | list[Conversation]:
        """Returns one conversation, or the conversations of a slice."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.path}: conversation {index} of {len(self)}")
        number = index % len(self)
        start, end = map(int, self._offsets[number : number + 2])
        line = os.pread(self._opened().fileno(), end - start, start)
        return _conversation(self.path, parse_row(line, self.path, number + 1, WHAT), number + 1)

    def __iter__(self) -> Iterator[Conversation]:
        """Yields all conversations."""
        return (self[number] for number in range(len(self)))

    def _opened(self) -> BinaryIO:
        with self._opening:
            if self._stream is None:
                stream = _open(self.path)
                if _state(stream) != self._state:
                    stream.close()
                    raise DataError(f"{self.path}: the {WHAT} has changed since this run opened it: start again")
                self._stream = stream
            return self._stream

    def __reduce__(self) -> tuple[Any, ...]:
        return ConversationTable, (self.path, self._offsets, self._state)


def read_conversations(path: Path) -> ConversationTable:
    """Opens a conversation table and checks every row; raises `DataError` naming the file and the faulty row."""
    offsets, end = array("q"), 0
    with _open(path) as stream:
        state = _state(stream)
        for number, line in enumerate(stream, 1):
            if line.strip():
                _conversation(path, parse_row(line, path, number, WHAT), len(offsets) + 1)
                offsets.append(end)
            end += len(line)
    offsets.append(end)
    return ConversationTable(path, numpy.frombuffer(offsets, numpy.int64), state)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: {WHAT} cannot be read: {error.strerror}") from error


def _state(stream: BinaryIO) -> list[int]:
    """Returns what tells a file from the one that was there before."""
    status = os.fstat(stream.fileno())
    return [status.st_size, status.st_mtime_ns]


def _conversation(path: Path, row: dict[str, Any], number: int) -> Conversation:
    try:
        return Conversation.model_validate(row)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise DataError(f"{path}: conversation {number} is not an EgoIT record: {faults}") from error
