"""What was made of one source video: its tar members and its index rows, complete or absent."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow

from data_builders.clip_store.encoding import tar_members
from data_builders.clip_store.source_video import SpanFrames
from exo2ego.data.clip_store import INDEX_SCHEMA, split_key
from exo2ego.data.spans import Span
from exo2ego.errors import VideoError
from exo2ego.storage import atomic_path

PARTS_FOLDER = "parts"
OUTSIDE = "empty_span"
"""The `VideoError` reason of a span that lies outside its video."""
IGNORED_ON_RETRY = (None, OUTSIDE)
"""What a later run does not try again: clips that were written, and spans that no repaired file can give."""

PART_SCHEMA = INDEX_SCHEMA.append(pyarrow.field("group_offset", pyarrow.int64())).append(
    pyarrow.field("group_size", pyarrow.int64())
)
"""Index rows with the place of each clip's group of tar members; all offsets count from the part's first byte."""


@dataclass(frozen=True)
class Part:
    """The two files of one source video; the rows are written last and mark the part complete."""

    members_path: Path
    rows_path: Path

    @classmethod
    def of(cls, out: Path, video: str) -> Part:
        """Returns where the part of a video lies."""
        name = hashlib.sha256(video.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return cls(out / PARTS_FOLDER / f"{name}.members", out / PARTS_FOLDER / f"{name}.arrow")

    def rows(self) -> pyarrow.Table:
        """Returns the index rows with the places of the tar members in the part."""
        with pyarrow.OSFile(str(self.rows_path)) as stream:
            return pyarrow.ipc.open_file(stream).read_all()

    def is_current(self, source: Path, num_spans: int) -> bool:
        """Says whether the part is complete, of the source as it is now, and free of failures worth another try."""
        if not self.rows_path.is_file():
            return False
        rows = self.rows()
        if (rows.schema.metadata or {}).get(b"source") != fingerprint(source):
            return False
        return rows.num_rows == num_spans and set(rows["reason"].to_pylist()) <= set(IGNORED_ON_RETRY)

    def remove(self) -> None:
        """Removes both files, the mark of completeness first."""
        self.rows_path.unlink(missing_ok=True)
        self.members_path.unlink(missing_ok=True)


def fingerprint(source: Path) -> bytes:
    """Returns what tells whether a source file has changed: its size and time of change."""
    try:
        status = source.stat()
    except (OSError, ValueError):
        return b"missing"
    return f"{status.st_size} {status.st_mtime_ns}".encode()


def write_part(part: Part, source: Path, results: Iterable[tuple[Span, SpanFrames | VideoError, bytes]]) -> int:
    """Writes all clips (mp4 bytes; none of a failure) and rows of a video; returns the number of failures."""
    source_before = fingerprint(source)
    rows: list[dict[str, Any]] = []
    end = 0
    with atomic_path(part.members_path) as temporary, temporary.open("wb") as stream:
        for span, result, clip in results:
            if isinstance(result, VideoError):
                rows.append(failed_row(span, result))
                continue
            members, offset = tar_members(span, result.timestamps_s, result.source_size, clip)
            stream.write(members)
            rows.append(
                {
                    **_span_columns(span),
                    "offset": end + offset,
                    "size": len(clip),
                    "crc32": zlib.crc32(clip),
                    "height": result.source_size[0],
                    "width": result.source_size[1],
                    "timestamps_s": result.timestamps_s,
                    "group_offset": end,
                    "group_size": len(members),
                }
            )
            end += len(members)
    write_rows(part, rows, source_before)
    return sum("reason" in row for row in rows)


def write_rows(part: Part, rows: Sequence[dict[str, Any]], source: bytes) -> None:
    """Writes the rows of a part, which mark it complete."""
    table = pyarrow.Table.from_pylist(rows, schema=PART_SCHEMA.with_metadata({b"source": source}))
    with atomic_path(part.rows_path) as temporary, pyarrow.ipc.new_file(str(temporary), table.schema) as writer:
        writer.write_table(table)


def failed_row(span: Span, error: VideoError) -> dict[str, Any]:
    """Returns the index row of a span that could not be read."""
    return {**_span_columns(span), "reason": error.reason, "detail": error.detail}


def _span_columns(span: Span) -> dict[str, Any]:
    high, low = split_key(span.key)
    return {"key_high": high, "key_low": low, **span._asdict()}
