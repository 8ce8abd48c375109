"""Embedded texts: computed once per model, kept on disk in files that are complete or absent."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy
from numpy.typing import NDArray

from data_builders.distractors.encoder import TextEncoder
from exo2ego.console import track
from exo2ego.errors import DataError
from exo2ego.storage import atomic_path

TEXTS_PER_FILE = 2048
"""Some seconds of embedding: the most that a kill can lose."""
KEY_BYTES = 32
MAX_LENGTH_ERROR = 1e-3

Vectors = NDArray[numpy.float32]


def embed(texts: Sequence[str], encoder: TextEncoder, cache: Path | None = None) -> Vectors:
    """Returns one row of length 1 per text, [N, D], memory-mapped; `texts` are distinct.

    Texts that the folder `cache` holds for this encoder are not embedded again; the others are added to it, file by
    file. Raises `DataError` for a damaged file.
    """
    place_of = {_key(text): place for place, text in enumerate(texts)}
    if len(place_of) < len(texts):
        raise ValueError("the texts to embed are not distinct")
    folder = cache / encoder.name if cache is not None else None
    rows = _Rows(len(texts), near=cache)
    if folder is not None:
        for path in sorted(folder.glob("*.npz")):
            _take_stored(path, encoder.name, place_of, rows)
    # Texts of like length together, for the encoder's batches; an order that depends on the set of texts alone.
    missing = sorted((texts[place] for place in rows.missing()), key=lambda text: (len(text), text))
    for start in track(range(0, len(missing), TEXTS_PER_FILE), "embedding texts, 2,048 a step"):
        part = missing[start : start + TEXTS_PER_FILE]
        vectors = encoder.encode(part)
        _require_unit_rows(vectors, len(part), f"encoder {encoder.name}")
        keys = [_key(text) for text in part]
        if folder is not None:
            _store(folder, encoder.name, keys, vectors)
        rows.put([place_of[key] for key in keys], vectors)
    return rows.mapped()


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _store(folder: Path, name: str, keys: Sequence[bytes], vectors: Vectors) -> None:
    """Writes one file, named by what it holds: two processes that embed the same texts write the same file."""
    packed = numpy.frombuffer(b"".join(keys), numpy.uint8).reshape(-1, KEY_BYTES)
    path = folder / f"{hashlib.sha256(packed.tobytes()).hexdigest()[:24]}.npz"
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        numpy.savez(stream, encoder=numpy.array(name), keys=packed, vectors=vectors)


def _take_stored(path: Path, name: str, place_of: Mapping[bytes, int], rows: _Rows) -> None:
    """Puts the rows of one file that are asked for; the checksums of the zip format show damage."""
    advice = "the cache file is damaged; delete it, its texts will be embedded again"
    try:
        with numpy.load(path, allow_pickle=False) as stored:
            if str(stored["encoder"]) != name:
                raise DataError(f"{path}: holds vectors of the encoder {stored['encoder']}, not of {name}; delete it")
            keys = [key.tobytes() for key in stored["keys"]]
            asked = [number for number, key in enumerate(keys) if key in place_of]
            if not asked:
                return
            vectors = stored["vectors"]
    except (
        zipfile.BadZipFile,
        zlib.error,
        ValueError,
        KeyError,
        EOFError,
        OSError,
        RuntimeError,
        MemoryError,
    ) as error:
        raise DataError(f"{path}: {advice} ({error})") from error
    _require_unit_rows(vectors, len(keys), f"{path}: {advice}")
    rows.put([place_of[keys[number]] for number in asked], vectors[asked])


def _require_unit_rows(vectors: Vectors, count: int, what: str) -> None:
    if vectors.dtype != numpy.float32 or vectors.ndim != 2 or len(vectors) != count:
        raise DataError(f"{what}: expected {count} float32 rows, got {vectors.dtype} {list(vectors.shape)}")
    lengths = numpy.sqrt(numpy.einsum("nd,nd->n", vectors, vectors))
    if not (numpy.abs(lengths - 1) <= MAX_LENGTH_ERROR).all():  # also where a value is not finite
        raise DataError(f"{what}: expected rows of length 1, got {lengths.min():.4g} to {lengths.max():.4g}")


class _Rows:
    """A matrix in a file without a name: it may be larger than the memory, and goes with the last use of it."""

    def __init__(self, num_rows: int, near: Path | None) -> None:
        if near is not None:
            near.mkdir(parents=True, exist_ok=True)
        self._stream = tempfile.TemporaryFile(dir=near)  # noqa: SIM115 (it is open for as long as rows come)
        self._have = numpy.zeros(num_rows, bool)
        self._width: int | None = None

    def put(self, places: Sequence[int], vectors: Vectors) -> None:
        """Writes rows; not through the map, where a full disk would be a signal and not an error."""
        self._width = self._width or vectors.shape[1]
        if vectors.shape[1] != self._width:
            raise DataError(f"vectors of {self._width} and of {vectors.shape[1]} dimensions from the same encoder")
        try:
            for place, vector in zip(places, vectors, strict=True):
                os.pwrite(self._stream.fileno(), vector.tobytes(), place * self._width * vector.itemsize)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise DataError(f"the disk for embeddings is full ({error.strerror}); free space") from error
            raise
        self._have[places] = True

    def missing(self) -> list[int]:
        """Returns the places without a row."""
        return numpy.flatnonzero(~self._have).tolist()

    def mapped(self) -> Vectors:
        """Returns the whole matrix."""
        if self._width is None:
            return numpy.empty((0, 0), numpy.float32)
        mapped = numpy.memmap(self._stream, numpy.float32, "r", shape=(len(self._have), self._width))
        return numpy.asarray(mapped)  # rows of a memmap are memmaps as well, which are slow to make
