"""Checking a complete store: every file against its SHA-256, every clip against the index."""

from __future__ import annotations

import tarfile
from pathlib import Path

from exo2ego.data.clip_store import INDEX_FILE, ClipStore, damaged_files, read_payload
from exo2ego.errors import DataError, VideoError

MAX_SHOWN = 20


def verify(folder: Path) -> tuple[int, int]:
    """Returns the number of shards and of clips that were found sound; raises `DataError` listing all damage."""
    store = ClipStore(folder)
    faults = damaged_files(store)
    if any(INDEX_FILE in fault for fault in faults):
        raise DataError("\n  ".join(faults) + "\n  copy or build the index again, then verify again")
    shards = store.description.shards
    columns = [store.index[name].to_pylist() for name in ("key_high", "key_low", "shard", "offset", "size", "crc32")]
    num_clips = 0
    for high, low, shard, offset, size, crc32 in zip(*columns, strict=True):
        if shard is None:
            continue
        path = folder / shards[shard].name
        try:
            _require_name(path, offset, f"{high:016x}{low:016x}.mp4")
            read_payload(path, offset, size, crc32)
        except VideoError as error:
            faults.append(str(error))
        num_clips += 1
    if num_clips != sum(shard.num_clips for shard in shards):
        faults.append(f"{folder}: the index has {num_clips} stored clips, the shards another number")
    if faults:
        more = f"\n  and {len(faults) - MAX_SHOWN} more" if len(faults) > MAX_SHOWN else ""
        raise DataError(f"{folder}: {len(faults)} faults\n  " + "\n  ".join(faults[:MAX_SHOWN]) + more)
    return len(shards), num_clips


def _require_name(path: Path, offset: int, name: str) -> None:
    with path.open("rb") as stream:
        stream.seek(offset - tarfile.BLOCKSIZE)
        header = stream.read(tarfile.BLOCKSIZE)
    try:
        found = tarfile.TarInfo.frombuf(header, "utf-8", "strict").name
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        raise VideoError(path, "damaged_store", f"no tar member before byte {offset}: copy the shard again") from error
    if found != name:
        raise VideoError(path, "damaged_store", f"expected {name} at byte {offset}, found {found}")
