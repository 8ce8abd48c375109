"""Files of records of every type, told apart by their content; a faulty row is a finding here, not the end."""

from __future__ import annotations

import codecs
import contextlib
import json
import mmap
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from exo2ego.errors import DataError
from exo2ego.raw.json_stream import stream_list
from exo2ego.records import Clip, Conversation, Prediction, Question, Record

MAX_LINE_BYTES = 1 << 24
"""A longer line is no record; it is skipped without being read into memory."""
NUM_ROWS_TO_DETECT = 50
RECORD_TYPES: dict[str, type[Record]] = {
    "clips": Clip,
    "conversations": Conversation,
    "questions": Question,
    "predictions": Prediction,
}


@dataclass(frozen=True)
class Row:
    """One row of a record file: its record, or why it is none."""

    number: int
    """Line of a JSONL file, position in any other; from 1."""
    record: Record | None
    faults: tuple[str, ...] = ()
    raw: Any = None
    """The plain values of a row that is no record; its first characters where it is not even JSON."""


class RecordFile(ABC):
    """An opened file of records: its type, its length, and its rows by place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kind = ""
        """One of `RECORD_TYPES`; "records" where there is no row to tell by."""

    @abstractmethod
    def __len__(self) -> int:
        """Returns the number of rows, faulty ones included."""

    @abstractmethod
    def plain(self, place: int) -> Row:
        """Returns the row at a place, from 0, not yet validated: `raw` holds its values unless it has faults."""

    def __getitem__(self, place: int) -> Row:
        """Returns the row at a place, from 0, validated."""
        row = self.plain(place)
        if row.faults:
            return row
        try:
            return Row(row.number, RECORD_TYPES[self.kind].model_validate(row.raw))
        except ValidationError as error:
            return Row(row.number, None, tuple(_described(error)), row.raw)

    def __iter__(self) -> Iterator[Row]:
        """Yields all rows, validated."""
        return (self[place] for place in range(len(self)))


def open_records(path: Path) -> RecordFile:
    """Opens a clip table (Parquet, Arrow), JSONL or a JSON list, and finds out which type of record it holds.

    Raises `DataError` when it is missing, damaged as a whole, or holds no type of record; it may be empty.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(1 << 12)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if start.startswith((b"PAR1", b"ARROW1")):
        return _ClipFile(path)
    text = start.removeprefix(codecs.BOM_UTF8).lstrip()
    file = _ListFile(path) if text.startswith(b"[") else _LinesFile(path)
    if not len(file):
        file.kind = "records"
        return file
    file.kind = _detected(path, (file.plain(place) for place in range(min(len(file), NUM_ROWS_TO_DETECT))))
    return file


class _ClipFile(RecordFile):
    def __init__(self, path: Path) -> None:
        from exo2ego.data.clips import read_clips  # imports pyarrow

        super().__init__(path)
        self.kind = "clips"
        table = read_clips(path)
        self._num_rows = len(table)
        self._columns = {}
        for name in Clip.model_fields:
            with contextlib.suppress(KeyError):  # optional columns of an older table
                self._columns[name] = table.column(name)

    def __len__(self) -> int:
        return self._num_rows

    def plain(self, place: int) -> Row:
        return Row(place + 1, None, (), {name: column[place].as_py() for name, column in self._columns.items()})


class _ListFile(RecordFile):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._values = list(stream_list(path, "list of records"))

    def __len__(self) -> int:
        return len(self._values)

    def plain(self, place: int) -> Row:
        return _object_row(place + 1, self._values[place])


class _LinesFile(RecordFile):
    """JSONL: only the places of the lines are kept in memory."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with path.open("rb") as stream:
            is_empty = not stream.read(1)  # which cannot be mapped
            self._data = b"" if is_empty else mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._lines = list(_places_of_lines(self._data))

    def __len__(self) -> int:
        return len(self._lines)

    def plain(self, place: int) -> Row:
        number, offset, num_bytes = self._lines[place]
        if num_bytes > MAX_LINE_BYTES:
            return Row(number, None, (f"a line of {num_bytes:,} bytes: no record is that long",), "")
        line = self._data[offset : offset + num_bytes]
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            return Row(number, None, (f"not UTF-8 text: {error.reason} at byte {error.start}",), repr(line[:200]))
        try:
            return _object_row(number, json.loads(text))
        except (ValueError, RecursionError) as error:
            return Row(number, None, (f"not valid JSON: {error}",), text[:200])


def _places_of_lines(data: mmap.mmap | bytes) -> Iterator[tuple[int, int, int]]:
    """Yields (line number, offset, bytes) of the lines that are not blank."""
    number, offset = 1, 0
    while offset < len(data):
        end = data.find(b"\n", offset) + 1 or len(data)
        if end - offset > MAX_LINE_BYTES or data[offset:end].strip():
            yield number, offset, end - offset
        number, offset = number + 1, end


def _object_row(number: int, value: Any) -> Row:
    if isinstance(value, dict):
        return Row(number, None, (), value)
    return Row(number, None, (f"expected a JSON object, got {type(value).__name__}",), value)


def _detected(path: Path, rows: Iterable[Row]) -> str:
    """Returns the type of record whose keys fit the rows best; raises `DataError` where none fits half of its keys."""
    misfits: Counter[str] = Counter()
    objects = [row.raw for row in rows if not row.faults]
    if not objects:
        raise DataError(f"{path}: holds no JSON object in its first {NUM_ROWS_TO_DETECT} rows; expected records")
    for kind, record in RECORD_TYPES.items():
        known = {name for name, field in record.model_fields.items()} | _keys(record)
        required = _keys(record, required=True)
        by_name = {field.alias: name for name, field in record.model_fields.items() if field.alias}
        misfits[kind] = sum(
            len(value.keys() - known) + sum(key not in value and by_name.get(key) not in value for key in required)
            for value in objects
        )
    kind = min(misfits, key=lambda name: misfits[name])
    if misfits[kind] > len(objects) * len(_keys(RECORD_TYPES[kind], required=True)) / 2:
        raise DataError(
            f"{path}: its rows are none of the known records ({', '.join(RECORD_TYPES)}): they have the keys "
            f"{', '.join(sorted(map(str, objects[0]))[:12])}; the formats are described in docs/data.md"
        )
    return kind


def _keys(record: type[Record], *, required: bool = False) -> set[str]:
    """Returns the keys of a record's JSON form."""
    return {field.alias or name for name, field in record.model_fields.items() if field.is_required() or not required}


def _described(error: ValidationError) -> Iterator[str]:
    for fault in error.errors(include_url=False):
        where = ".".join(map(str, fault["loc"]))
        message = fault["msg"].removeprefix("Value error, ")
        yield f"{where}: {message}" if where else message
