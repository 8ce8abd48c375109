"""Reading a large JSON file one member at a time, so that memory does not grow with the file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from exo2ego.errors import DataError

_WINDOW_CHARACTERS = 1 << 20
MAX_VALUE_CHARACTERS = 1 << 26
"""No single member of a real annotation file comes near it; a larger one would only fill the memory."""
_WHITESPACE = " \t\n\r"
_AFTER_A_VALUE = {*_WHITESPACE, ",", ":", "]", "}"}
_LONGEST_TOKEN = 12
"""Characters of `\\ud83d\\ude00`: an error further from the end of the window stays one with more text."""


def unique_names(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the members of a JSON object (a decoder's `object_pairs_hook`); raises `ValueError` for a name twice."""
    made = dict(members)
    if len(made) < len(members):
        twice = Counter(name for name, _ in members).most_common(1)[0][0]
        raise ValueError(f"{twice[:80]!a} is given twice")
    return made


_decode = json.JSONDecoder(object_pairs_hook=unique_names).raw_decode


def stream_list(path: Path, what: str) -> Iterator[Any]:
    """Yields the items of a file that holds one JSON list; raises `DataError` naming the file and the faulty line."""
    with _Window(path, what) as window:
        for _ in window.members("[", "]"):
            yield window.value()
        window.expect_end()


def stream_members(path: Path, what: str) -> Iterator[tuple[str, Any]]:
    """Yields the (name, value) members of a file that holds one JSON object; raises `DataError` as `stream_list`."""
    with _Window(path, what) as window:
        yield from window.named_members()
        window.expect_end()


def stream_object(path: Path, key: str, what: str) -> Iterator[tuple[str, Any]]:
    """Yields the (name, value) members of the object stored under `key` of a file that holds one JSON object.

    Raises `DataError` naming the file and the faulty line, also when `key` is absent.
    """
    found = False
    with _Window(path, what) as window:
        for name in window.names():
            if name == key:
                found = True
                yield from window.named_members()
            else:
                window.value()
        window.expect_end()
    if not found:
        raise DataError(f"{path}: {what} has no `{key}`; expected an object with that key")


class _Window:
    """The part of a JSON text that is held in memory, and a position in it."""

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        self.what = what
        self._text = ""
        self._at = 0
        self._lines_before = 0
        try:
            self._stream = path.open(encoding="utf-8-sig")  # some tools write a byte order mark
        except OSError as error:
            raise DataError(f"{path}: {what} cannot be read: {error.strerror}") from error

    def __enter__(self) -> _Window:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def members(self, opening: str, closing: str) -> Iterator[None]:
        """Stands before each member of a list or object in turn; the caller reads the member."""
        self._take(opening)
        if self._next() == closing:
            self._take(closing)
            return
        while True:
            yield
            if self._next() == closing:
                self._take(closing)
                return
            self._take(",")

    def names(self) -> Iterator[str]:
        """Yields the name of each member of an object, standing before its value; the caller reads the value."""
        seen: set[str] = set()
        for _ in self.members("{", "}"):
            if self._next() != '"':
                raise self._malformed("expected a name in double quotes", self._at)
            name = str(self.value())
            if name in seen:
                raise self._malformed(f"{name[:80]!a} is given twice", self._at)
            seen.add(name)
            self._take(":")
            yield name

    def named_members(self) -> Iterator[tuple[str, Any]]:
        """Yields the (name, value) members of an object."""
        for name in self.names():
            yield name, self.value()

    def value(self) -> Any:
        """Reads one whole value, reading on in the file for as long as the window ends inside it."""
        self._next()
        while True:
            try:
                value, end = _decode(self._text, self._at)
            except json.JSONDecodeError as error:
                stays = error.pos < len(self._text) - _LONGEST_TOKEN and not error.msg.startswith("Unterminated string")
                if stays or not self._read_on():
                    raise self._malformed(error.msg, error.pos) from error
                continue
            except RecursionError as error:
                raise self._malformed("nested too deeply", self._at) from error
            except ValueError as error:  # a name that is given twice, or an integer of thousands of digits
                raise self._malformed(str(error), self._at) from error
            # A number may go on after the window ("1" or "1." of "1.5"), unless what follows it is there to see.
            if self._text[end : end + 1] in _AFTER_A_VALUE or not self._read_on():
                self._at = end
                return value

    def expect_end(self) -> None:
        """Raises `DataError` unless only white space is left."""
        if self._next():
            raise self._malformed("expected the end of the file", self._at)

    def _next(self) -> str:
        while True:
            while self._at < len(self._text):
                character = self._text[self._at]
                if character not in _WHITESPACE:
                    return character
                self._at += 1
            if not self._read_on():
                return ""

    def _take(self, character: str) -> None:
        if self._next() != character:
            raise self._malformed(f"expected {character!r}", self._at)
        self._at += 1

    def _read_on(self) -> bool:
        """Drops what was read and appends the next part of the file, larger while one value outgrows the window."""
        if len(self._text) - self._at > MAX_VALUE_CHARACTERS:
            raise self._malformed(f"one value of more than {MAX_VALUE_CHARACTERS:,} characters", self._at)
        try:
            more = self._stream.read(max(_WINDOW_CHARACTERS, len(self._text) - self._at))
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{self.path}: {self.what} cannot be read: {error}") from error
        if more:
            self._lines_before += self._text.count("\n", 0, self._at)
            self._text = self._text[self._at :] + more
            self._at = 0
        return bool(more)

    def _malformed(self, message: str, position: int) -> DataError:
        line = 1 + self._lines_before + self._text.count("\n", 0, position)
        return DataError(
            f"{self.path}: {self.what} is not valid JSON: line {line}: {message}; "
            "the file may be cut off or damaged: download or build it again"
        )
