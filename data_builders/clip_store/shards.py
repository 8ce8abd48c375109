"""From the parts of all videos to tar shards of one size and the index; a killed run continues at the next shard."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow

from data_builders.clip_store.encoding import TAR_END
from data_builders.clip_store.parts import Part
from exo2ego.data.clip_store import INDEX_SCHEMA, Shard
from exo2ego.errors import DataError
from exo2ego.storage import atomic_path, hash_file

COPY_BYTES = 1 << 22


@dataclass
class ShardPlan:
    """Which bytes of which parts make one shard."""

    name: str
    pieces: list[tuple[Path, int, int]] = field(default_factory=list)
    """(part, first byte, end), in order."""
    num_clips: int = 0
    size: int = 0
    """Of the members, bytes; the file has the end mark of a tar beside."""

    @property
    def file_bytes(self) -> int:
        """Size of the tar file."""
        return self.size + len(TAR_END)


@dataclass
class Layout:
    """The place of every clip: the shards, and per part the shard and the shift of each stored row."""

    shards: list[ShardPlan] = field(default_factory=list)
    tables: list[pyarrow.Table] = field(default_factory=list)
    """Index rows with their final place."""


def lay_out(parts: Sequence[Part], shard_bytes: int) -> Layout:
    """Packs clips into shards in the order of the parts; a pure function of the parts' rows."""
    layout = Layout()
    for part in parts:
        rows = part.rows()
        offsets = rows["offset"].to_pylist()
        shards: list[int | None] = [None] * rows.num_rows
        for number, (start, size) in enumerate(
            zip(rows["group_offset"].to_pylist(), rows["group_size"].to_pylist(), strict=True)
        ):
            if size is None:
                continue
            shard = _shard_with_room(layout, size, shard_bytes)
            offsets[number] += shard.size - start
            shards[number] = len(layout.shards) - 1
            _add_piece(shard, part.members_path, start, start + size)
        layout.tables.append(_placed(rows, offsets, shards))
    return layout


def _shard_with_room(layout: Layout, size: int, shard_bytes: int) -> ShardPlan:
    last = layout.shards[-1] if layout.shards else None
    if last is None or (last.size and last.size + size + len(TAR_END) > shard_bytes):
        last = ShardPlan(f"clips-{len(layout.shards):06d}.tar")
        layout.shards.append(last)
    return last


def _add_piece(shard: ShardPlan, path: Path, start: int, end: int) -> None:
    shard.size += end - start
    shard.num_clips += 1
    if shard.pieces and shard.pieces[-1][0] == path and shard.pieces[-1][2] == start:
        start = shard.pieces.pop()[1]
    shard.pieces.append((path, start, end))


def _placed(rows: pyarrow.Table, offsets: Sequence[int | None], shards: Sequence[int | None]) -> pyarrow.Table:
    columns: dict[str, Any] = {name: rows[name] for name in INDEX_SCHEMA.names}
    columns["offset"] = pyarrow.array(offsets, pyarrow.int64())
    columns["shard"] = pyarrow.array(shards, pyarrow.int32())
    return pyarrow.table(columns, schema=INDEX_SCHEMA)


def write_shards(out: Path, layout: Layout) -> Iterator[Shard]:
    """Writes the shards that are not there yet, removing the parts' bytes that were copied; yields each shard."""
    last_use = {path: plan.name for plan in layout.shards for path, _, _ in plan.pieces}
    for plan in layout.shards:
        path = out / plan.name
        if path.is_file() and path.stat().st_size == plan.file_bytes:
            digest = hash_file(path)
        else:
            digest = _write_shard(path, plan)
        for used in {used for used, _, _ in plan.pieces if last_use[used] == plan.name}:
            used.unlink(missing_ok=True)
        yield Shard(name=plan.name, bytes=plan.file_bytes, sha256=digest, num_clips=plan.num_clips)


def _write_shard(path: Path, plan: ShardPlan) -> str:
    digest = hashlib.sha256()
    with atomic_path(path) as temporary, temporary.open("wb") as target:
        for source, start, end in plan.pieces:
            with source.open("rb") as stream:
                stream.seek(start)
                while start < end:
                    block = stream.read(min(COPY_BYTES, end - start))
                    if not block:
                        raise DataError(f"{source}: ends too early; remove {path.parent} and build the store again")
                    start += len(block)
                    digest.update(block)
                    target.write(block)
        digest.update(TAR_END)
        target.write(TAR_END)
    return digest.hexdigest()


def write_index(path: Path, tables: Sequence[pyarrow.Table]) -> None:
    """Writes all rows sorted by key, as one batch that can be mapped."""
    table = pyarrow.concat_tables([INDEX_SCHEMA.empty_table(), *tables]).unify_dictionaries()
    table = table.sort_by([("key_high", "ascending"), ("key_low", "ascending")]).combine_chunks()
    with atomic_path(path) as temporary, pyarrow.ipc.new_file(str(temporary), INDEX_SCHEMA) as writer:
        writer.write_table(table, max_chunksize=max(1, table.num_rows))
