"""The clip table on disk: its columns, and reading it back as `Clip` records with cheap random and column access."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy
import pyarrow
import pyarrow.compute
import pyarrow.parquet
from numpy.typing import NDArray

from exo2ego.errors import DataError
from exo2ego.records import Clip

_REPEATED = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
"""Text that many rows share: stored once, four bytes per row."""

CLIP_SCHEMA = pyarrow.schema(
    {
        "clip_id": pyarrow.string(),
        "take_uid": _REPEATED,
        "take_name": _REPEATED,
        "start_s": pyarrow.float64(),
        "end_s": pyarrow.float64(),
        "timestamp_s": pyarrow.float64(),
        "text": pyarrow.string(),
        "annotator": _REPEATED,
        "ego_video": _REPEATED,
        "exo_videos": pyarrow.list_(pyarrow.field("element", _REPEATED)),
        "university": _REPEATED,
        "scenario": _REPEATED,
        "task": _REPEATED,
        "subject": _REPEATED,
        "ego_visible": pyarrow.bool_(),
        "unsure": pyarrow.bool_(),
        "best_exo": _REPEATED,
    }
)
"""One column per field of `Clip`, in the record's order."""


class ClipTable(Sequence[Clip]):
    """A clip table as a sequence of `Clip`; a row is decoded when it is asked for, and pickles as its path."""

    def __init__(self, path: Path, table: pyarrow.Table) -> None:
        self.path = path
        self._table = table
        self._columns = dict(zip(table.column_names, table.columns, strict=True))

    def __len__(self) -> int:
        """Returns the number of clips."""
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> list[Clip]: ...
    def __getitem__(self, index: int | slice) -> Clip | list[Clip]:
        """Returns one clip, or the clips of a slice."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.path}: clip {index} of {len(self)}")
        number = index % len(self)
        return Clip.model_validate({name: column[number].as_py() for name, column in self._columns.items()})

    def column(self, name: str) -> pyarrow.ChunkedArray:
        """Returns one column of all rows without decoding the others; raises `KeyError` for an unknown name."""
        return self._table.column(name)

    def num_exo_videos(self) -> NDArray[numpy.int64]:
        """Returns the number of exocentric videos of every clip, [N]."""
        lengths = pyarrow.compute.list_value_length(self.column("exo_videos")).combine_chunks()
        return numpy.from_dlpack(lengths).astype(numpy.int64)  # Arrow's own conversion would import pandas

    def __reduce__(self) -> tuple[Any, ...]:
        return read_clips, (self.path,)


def read_clips(path: Path) -> ClipTable:
    """Opens a clip table: `.arrow` is memory-mapped (no start-up cost, no memory), `.parquet` is read into memory.

    Raises `DataError` when the file is missing, damaged, or is not a clip table.
    """
    try:
        table = _map_arrow(path) if path.suffix == ".arrow" else _read_parquet(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: clip table not found; build it with `python -m data_builders.ego_exoclip`") from error
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as a clip table ({error}); build it again") from error
    return ClipTable(path, table)


def _map_arrow(path: Path) -> pyarrow.Table:
    table = pyarrow.ipc.open_file(pyarrow.memory_map(str(path))).read_all()
    return table.select(_schema_of(path, table.column_names).names)


def _read_parquet(path: Path) -> pyarrow.Table:
    """Reads row group by row group, each made compact before the next is read."""
    with pyarrow.parquet.ParquetFile(path, memory_map=True) as parquet:
        schema = _schema_of(path, parquet.schema_arrow.names)
        groups = (parquet.read_row_group(number, schema.names) for number in range(parquet.num_row_groups))
        return pyarrow.concat_tables([schema.empty_table(), *(group.cast(schema) for group in groups)])


def _schema_of(path: Path, names: Sequence[str]) -> pyarrow.Schema:
    """Returns the part of `CLIP_SCHEMA` that is in a file with columns `names`; raises `DataError` if too little is."""
    required = [name for name, field in Clip.model_fields.items() if field.is_required()]
    missing = [name for name in required if name not in names]
    if missing:
        raise DataError(f"{path}: not a clip table: it has no column {', '.join(missing)}")
    return pyarrow.schema([field for field in CLIP_SCHEMA if field.name in names])
