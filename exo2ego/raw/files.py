"""The annotation files of a raw dataset: found under any of their names, read row by row, faults with their place."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from exo2ego.errors import DataError
from exo2ego.raw.json_stream import stream_list, stream_members, stream_object, unique_names
from exo2ego.raw.rows import RowType, describe_faults
from exo2ego.storage import hash_file

MAX_LINE_CHARACTERS = 1 << 20
"""The longest line of a table that is read; a longer one is no annotation (and would only fill the memory)."""

_decode = json.JSONDecoder(object_pairs_hook=unique_names).decode


class RawFiles:
    """The files that a reader uses, below the folder of one dataset.

    Every row comes with its place (`FILE: row N`), for the messages of the reader. All methods raise `DataError`, also
    for a name that an object of JSON has twice.
    """

    def __init__(self, root: Path, dataset: str) -> None:
        self.root = root
        self.dataset = dataset
        self._used: list[Path] = []

    def find(self, *names: str, what: str) -> Path:
        """Returns the first of `names` (paths relative to the dataset's folder) that is there."""
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder; expected the folder of {self.dataset} as downloaded")
        path = next((self.root / name for name in names if (self.root / name).is_file()), None)
        if path is None:
            there = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in self.root.iterdir())
            raise DataError(
                f"{self.root}: {what} of {self.dataset} not found; expected {' or '.join(names)}; "
                f"the folder holds {', '.join(there[:8]) + (', …' if len(there) > 8 else '') or 'nothing'}: "
                "is it the folder of this dataset?"
            )
        return self.use(path)

    def has(self, *names: str) -> bool:
        """Says whether one of `names` is there."""
        return any((self.root / name).is_file() for name in names)

    def use(self, path: Path) -> Path:
        """Notes a file as an input and returns it."""
        if path not in self._used:
            self._used.append(path)
        return path

    def hashes(self) -> dict[str, str]:
        """Returns the SHA-256 of every file that was used, by its path relative to the dataset's folder."""
        return {_relative(path, self.root): hash_file(path) for path in self._used}

    def json_rows(self, path: Path, row_class: type[RowType], what: str) -> Iterator[tuple[str, RowType]]:
        """Yields the items of a file that holds one JSON list."""
        for number, value in enumerate(stream_list(self.use(path), what), 1):
            where = f"{path}: row {number}"
            yield where, _validated(row_class, value, where)

    def json_members(
        self, path: Path, row_class: type[RowType], what: str, key: str | None = None
    ) -> Iterator[tuple[str, str, RowType]]:
        """Yields (place, name, value) of a file that holds one JSON object, or of the object under its `key`."""
        members = stream_members(self.use(path), what) if key is None else stream_object(self.use(path), key, what)
        for name, value in members:
            where = f"{path}: entry {name[:80]!a}"
            yield where, name, _validated(row_class, value, where)

    def json_table(self, path: Path, what: str) -> dict[str, Any]:
        """Reads a small file that holds one JSON object, as plain values."""
        return dict(stream_members(self.use(path), what))

    def jsonl_rows(self, path: Path, row_class: type[RowType], what: str) -> Iterator[tuple[str, RowType]]:
        """Yields the rows of a file with one JSON object per line."""
        for where, line in self.lines(path, what):
            try:
                value = _decode(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}: {what} is not valid JSON ({error}); the file may be cut off") from error
            yield where, _validated(row_class, value, where)

    def csv_rows(
        self,
        path: Path,
        row_class: type[RowType],
        what: str,
        *,
        delimiter: str = ",",
        columns: Sequence[str] | None = None,
        quoting: bool = True,
        bad_row: Callable[[str, str], None] | None = None,
    ) -> Iterator[tuple[str, RowType]]:
        """Yields the rows of a table; columns go by the names of its first line, or by `columns` where it has none.

        A missing column is a fault before any row, and so is a row with more or fewer fields than columns. `bad_row`
        gets (reason, place) of a row that is not valid, which is then left out, for a file that is known to have some.
        """
        lines = _Numbered(self.lines(path, what))
        try:
            reader = csv.reader(
                lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE, strict=quoting
            )
            header = list(columns) if columns is not None else [name.strip() for name in next(reader, [])]
            _require_columns(path, what, header, row_class)
            for fields in reader:
                where = f"{path}: line {lines.number}"
                if not any(field.strip() for field in fields):
                    continue
                try:
                    if len(fields) != len(header):
                        raise DataError(f"{where}: {what}: expected {len(header)} fields, got {len(fields)}")
                    row = _validated(row_class, dict(zip(header, fields, strict=True)), where)
                except DataError as error:
                    if bad_row is None:
                        raise
                    bad_row("not_a_valid_row", str(error))
                    continue
                yield where, row
        except csv.Error as error:
            raise DataError(f"{path}: line {lines.number}: {what} is not a table of `{delimiter}`: {error}") from error

    def lines(self, path: Path, what: str) -> Iterator[tuple[str, str]]:
        """Yields (place, line without its end) of a UTF-8 text file."""
        try:
            # A line of a quoted field may end within the field: `newline=""` leaves its ends as they are.
            with self.use(path).open(encoding="utf-8-sig", newline="") as stream:
                for number, line in enumerate(_bounded_lines(stream), 1):
                    where = f"{path}: line {number}"
                    if len(line) > MAX_LINE_CHARACTERS:
                        raise DataError(f"{where}: {what}: a line of more than {MAX_LINE_CHARACTERS:,} characters")
                    yield where, line
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: {what} is not UTF-8 text ({error.reason}); was it re-saved?") from error
        except OSError as error:
            raise DataError(f"{path}: {what} cannot be read: {error.strerror}") from error


class _Numbered:
    """Hands lines to the csv module and remembers the number of the last one."""

    def __init__(self, lines: Iterable[tuple[str, str]]) -> None:
        self._lines = lines
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        for number, (_, line) in enumerate(self._lines, 1):
            self.number = number
            yield line


def _bounded_lines(stream: TextIO) -> Iterator[str]:
    while line := stream.readline(MAX_LINE_CHARACTERS + 1):
        yield line


def _require_columns(path: Path, what: str, header: Sequence[str], row_class: type[RowType]) -> None:
    missing = []
    for name, field in row_class.model_fields.items():
        if field.is_required() and not accepted_names(name, field) & set(header):
            missing.append(" or ".join(sorted(accepted_names(name, field))))
    repeated = sorted({name for name in header if header.count(name) > 1})
    if missing or repeated:
        fault = f"lacks the column {', '.join(missing)}" if missing else f"has the column {repeated[0]} twice"
        raise DataError(f"{path}: {what} {fault}; it has {', '.join(header)[:300] or 'no columns'}: is it this file?")


def accepted_names(name: str, field: FieldInfo) -> set[str]:
    """Returns the names under which a field of a row may stand in a file."""
    alias = field.validation_alias
    if alias is None:
        return {name}
    choices = getattr(alias, "choices", [alias])
    return {choice for choice in choices if isinstance(choice, str)}


def _validated(row_class: type[RowType], value: Any, where: str) -> RowType:
    try:
        return row_class.model_validate(value)
    except ValidationError as error:
        raise DataError(f"{where}: {describe_faults(error)}") from error


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
