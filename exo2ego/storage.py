"""Files that are complete or absent: atomic writes, append-only JSONL that survives a kill, hashes, disk checks."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from exo2ego.errors import DataError

TEMPORARY_MARK = ".partial-"
_TEMPORARY_NAME = re.compile(r"\.partial-(?P<host>[0-9a-f]{6})-(?P<process>\d+)-[0-9a-f]{8}(-former)?$")


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary sibling of `path` (file or folder to be created by the caller) and renames it on success.

    On any failure the temporary is removed and `path` keeps its former content. A full disk raises `DataError`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}{TEMPORARY_MARK}{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        yield temporary
        for written in (temporary, *temporary.rglob("*")):
            _flush_to_disk(written)
        _replace(temporary, path)
        _flush_to_disk(path.parent)
    except OSError as error:
        _remove(temporary)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DataError(
                f"{path}: the disk is full ({error.strerror}); nothing was changed; free space and run again"
            ) from error
        raise
    except BaseException:
        _remove(temporary)
        raise


def _replace(temporary: Path, path: Path) -> None:
    """Renames over `path`; a folder that stands there steps aside first and is removed only when it is replaced."""
    if not (temporary.is_dir() and path.is_dir()):
        os.replace(temporary, path)
        return
    former = path.with_name(f"{temporary.name}-former")
    os.replace(path, former)
    try:
        os.replace(temporary, path)
    except BaseException:
        os.replace(former, path)
        raise
    shutil.rmtree(former)


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]


def remove_leftovers(folder: Path) -> list[Path]:
    """Removes temporaries that a killed run left in `folder`; returns what was removed.

    Those of a process that still runs stay, and those of another machine, of whose processes nothing is known here.
    """
    if not folder.is_dir():
        return []
    leftovers = [path for path in folder.iterdir() if _is_leftover(path.name)]
    for path in leftovers:
        _remove(path)
    return leftovers


def _is_leftover(name: str) -> bool:
    made_by = _TEMPORARY_NAME.search(name)
    return made_by is not None and made_by["host"] == _host() and not _is_running(int(made_by["process"]))


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON atomically; NaN and infinity are refused (`ValueError`)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Writes one JSON object per line atomically; returns the number of lines."""
    count = 0
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


def read_json(path: Path, what: str = "JSON file") -> Any:
    """Reads a JSON file; raises `DataError` naming the file, what it should be, and the faulty line."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(f"{path}: {what} not found") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {what} cannot be read: {error}") from error
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: {what} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}; "
            "the file may be cut off: download or build it again"
        ) from error


def read_jsonl(path: Path, what: str = "JSONL file") -> Iterator[dict[str, Any]]:
    """Yields the objects of a JSONL file; raises `DataError` with the line number for a cut or malformed line."""
    try:
        stream = path.open(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: {what} cannot be read: {error.strerror}") from error
    with stream:
        for number, line in _numbered_lines(stream, path, what):
            if line.strip():
                yield parse_row(line, path, number, what)


def parse_row(line: str | bytes, path: Path, number: int, what: str) -> dict[str, Any]:
    """Returns the object in one line of a JSONL file; raises `DataError` naming file, line and fault."""
    try:
        row = json.loads(line.decode("utf-8") if isinstance(line, bytes) else line)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: the {what} is not UTF-8 text ({error.reason}); build it again") from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: line {number} of the {what} is not valid JSON ({error.msg}); "
            "the file may have been cut off while it was written: build it again"
        ) from error
    except RecursionError as error:
        raise DataError(f"{path}: line {number} of the {what} is nested too deeply; build it again") from error
    if not isinstance(row, dict):
        raise DataError(f"{path}: line {number}: expected a JSON object, got {type(row).__name__}")
    return row


def _numbered_lines(stream: TextIO, path: Path, what: str) -> Iterator[tuple[int, str]]:
    try:
        yield from enumerate(stream, 1)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: the {what} is not UTF-8 text ({error.reason}); build it again") from error


class JsonlAppender:
    """Appends JSON objects line by line; opening it cuts off a half-written last line left by a kill."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.removed_bytes = _cut_half_line(path) if path.exists() else 0
        self._stream = path.open("a", encoding="utf-8")

    def append(self, row: dict[str, Any]) -> None:
        """Writes one line and hands it to the operating system, so that a kill of this process loses nothing."""
        self._stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()

    def __enter__(self) -> JsonlAppender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _cut_half_line(path: Path) -> int:
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end == len(data):
        return 0
    with path.open("r+b") as stream:
        stream.truncate(end)
    return len(data) - end


def hash_file(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes as hexadecimal text."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_text(text: str) -> str:
    """Returns the SHA-256 of a UTF-8 text as hexadecimal text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def require_free_space(folder: Path, needed_bytes: int, purpose: str) -> None:
    """Raises `DataError` when the disk of `folder` has less than `needed_bytes` free."""
    folder.mkdir(parents=True, exist_ok=True)
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise DataError(
            f"{folder}: {purpose} needs {needed_bytes / 1e9:.2f} GB, only {free_bytes / 1e9:.2f} GB are free; "
            "free space or choose another folder"
        )
