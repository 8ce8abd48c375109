"""From spooled narrations to rows of the clip table, written in batches to Parquet and Arrow files."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.compute
import pyarrow.parquet
from numpy.typing import NDArray

from data_builders.ego_exoclip import clip_rule
from data_builders.ego_exoclip.clip_rule import FloatArray, GroupBy, UndefinedBeta, ZeroLength
from data_builders.ego_exoclip.egoexo4d import Take
from data_builders.ego_exoclip.filters import DropLog
from data_builders.ego_exoclip.narrations import NarrationSpool, TakeBetas
from data_builders.ego_exoclip.statistics import ClipStatistics, DurationStatistics
from exo2ego.data.clips import CLIP_SCHEMA

BATCH_ROWS = 1 << 15

IntArray = NDArray[numpy.int64]


class Grouping:
    """Which narrations form a sequence, with the half width of every sequence of a list of takes."""

    def __init__(
        self, group_by: GroupBy, betas: Sequence[TakeBetas], alpha: float | None, undefined_beta: UndefinedBeta
    ) -> None:
        self.group_by = group_by
        sequences = [{0: one.merged} if group_by == "take" else one.by_annotation for one in betas]
        self.betas_s = [beta for sequence in sequences for beta in sequence.values()]
        self.alpha_s = clip_rule.alpha_s(self.betas_s) if alpha is None else alpha
        self._first_sequence = numpy.cumsum([0, *(max(sequence) + 1 for sequence in sequences)])
        self._half_widths_s = numpy.full(self._first_sequence[-1], numpy.nan)
        for first, sequence in zip(self._first_sequence, sequences, strict=False):
            for number, beta in sequence.items():
                self._half_widths_s[first + number] = clip_rule.half_width_s(beta, self.alpha_s, undefined_beta)

    def beta_summary(self) -> dict[str, Any]:
        """Returns the number of sequences with and without β, and the range of β in seconds."""
        defined = sorted(beta for beta in self.betas_s if beta is not None)
        spread = {"min": defined[0], "median": statistics.median(defined), "max": defined[-1]} if defined else {}
        return {"defined": len(defined), "undefined": len(self.betas_s) - len(defined), **spread}

    def spans(
        self, take_positions: IntArray, annotations: IntArray, timestamps_s: FloatArray, durations_s: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Returns starts and ends in seconds (Eq. 1), NaN for a sequence that makes no clip; all [N], any row order."""
        sequences = self._first_sequence[take_positions]
        if self.group_by == "annotation":
            sequences = sequences + annotations
        order = numpy.lexsort((timestamps_s, sequences))
        starts_s, ends_s = numpy.empty_like(timestamps_s), numpy.empty_like(timestamps_s)
        starts_s[order], ends_s[order] = clip_rule.clip_spans(
            timestamps_s[order], self._half_widths_s[sequences[order]], durations_s[order], sequences[order]
        )
        return starts_s, ends_s


@dataclass(frozen=True)
class Clips:
    """Spans of a batch of narrations, and for those without a clip the reason; all [N]."""

    starts_s: FloatArray
    ends_s: FloatArray
    dropped: dict[str, NDArray[numpy.bool_]]
    """Rows by reason, without overlap."""

    @property
    def kept(self) -> NDArray[numpy.bool_]:
        """Returns which narrations have a clip."""
        return ~numpy.logical_or.reduce(list(self.dropped.values()))


def make_clips(
    grouping: Grouping,
    zero_length: ZeroLength,
    take_positions: IntArray,
    annotations: IntArray,
    timestamps_s: FloatArray,
    durations_s: FloatArray,
) -> Clips:
    """Applies Eq. 1 and the policies of its edge cases to a batch of narrations, all [N]."""
    starts_s, ends_s = grouping.spans(take_positions, annotations, timestamps_s, durations_s)
    undefined = numpy.isnan(starts_s)
    outside = ~undefined & clip_rule.outside(timestamps_s, starts_s, ends_s, durations_s)
    zero = ~undefined & ~outside & (ends_s <= starts_s)
    if zero_length == "widen":
        starts_s, ends_s = clip_rule.widen(starts_s, ends_s, durations_s)
    dropped = {"undefined_beta": undefined, "outside_the_video": outside}
    if zero_length == "drop":
        dropped["zero_length"] = zero
    return Clips(starts_s, ends_s, dropped)


class ClipTables:
    """Iterates over the clip table of a list of takes in batches, counting what it yields and what it leaves out."""

    def __init__(
        self, takes: Sequence[Take], spool: NarrationSpool, grouping: Grouping, other: Grouping, zero_length: ZeroLength
    ) -> None:
        self.takes = takes
        self.spool = spool
        self.grouping = grouping
        self.other = other
        self.zero_length = zero_length
        self.statistics = ClipStatistics()
        self.other_durations = DurationStatistics()
        self.drops = DropLog()

    def __iter__(self) -> Iterator[pyarrow.Table]:
        """Yields tables of `CLIP_SCHEMA`, sorted by take name and time."""
        take_columns = _take_columns(self.takes)
        names = pyarrow.array(list(self.spool.names), pyarrow.string())
        durations_s = numpy.array([take.duration_s for take in self.takes])
        for positions, narrations in self._batches():
            annotations = narrations["annotation"].to_numpy()
            batch = (positions, annotations, narrations["timestamp_s"].to_numpy())
            clips = make_clips(self.grouping, self.zero_length, *batch, durations_s[positions])
            others = make_clips(self.other, self.zero_length, *batch, durations_s[positions])
            self.other_durations.add((others.ends_s - others.starts_s)[others.kept])
            self._note_dropped(positions, clips)
            table = _rows(take_columns.take(positions), narrations, clips, names).filter(clips.kept)
            self.statistics.add(table, self.takes, positions[clips.kept])
            yield table

    def _batches(self) -> Iterator[tuple[IntArray, pyarrow.Table]]:
        positions: list[int] = []
        batches: list[pyarrow.RecordBatch] = []
        num_rows = 0
        for position, take in enumerate(self.takes):
            positions.append(position)
            batches.append(self.spool.read(take.uid))
            num_rows += batches[-1].num_rows
            if num_rows >= BATCH_ROWS or position == len(self.takes) - 1:
                repeats = [batch.num_rows for batch in batches]
                yield numpy.repeat(positions, repeats), pyarrow.Table.from_batches(batches).combine_chunks()
                positions, batches, num_rows = [], [], 0

    def _note_dropped(self, positions: IntArray, clips: Clips) -> None:
        for reason, rows in clips.dropped.items():
            counts = numpy.bincount(positions[rows], minlength=len(self.takes))
            for position in numpy.flatnonzero(counts):
                self.drops.add("narration", reason, self.takes[position].uid, count=int(counts[position]))


def _take_columns(takes: Sequence[Take]) -> pyarrow.Table:
    """Returns one row per take with the columns that all its clips share, repeated text stored once."""

    def shared(values: list[str]) -> pyarrow.DictionaryArray:
        return pyarrow.array(values, pyarrow.string()).dictionary_encode()

    offsets = numpy.cumsum([0, *(len(take.exo_videos) for take in takes)])
    return pyarrow.table(
        {
            "take_uid": shared([take.uid for take in takes]),
            "take_name": shared([take.name for take in takes]),
            "ego_video": shared([take.ego_video or "" for take in takes]),
            "exo_videos": pyarrow.ListArray.from_arrays(
                pyarrow.array(offsets, pyarrow.int32()), shared([path for take in takes for path in take.exo_videos])
            ),
            "university": shared([take.university for take in takes]),
            "scenario": shared([take.scenario for take in takes]),
            "task": shared([take.task for take in takes]),
        }
    )


def _rows(takes: pyarrow.Table, narrations: pyarrow.Table, clips: Clips, names: pyarrow.Array) -> pyarrow.Table:
    """Returns the columns of `CLIP_SCHEMA` from those of the takes and of the narrations, row by row."""

    def named(column: str) -> pyarrow.DictionaryArray:
        return pyarrow.DictionaryArray.from_arrays(narrations[column].combine_chunks(), names)

    columns: dict[str, Any] = {
        **{name: takes[name] for name in takes.column_names},
        **{name: narrations[name] for name in ("timestamp_s", "text", "ego_visible", "unsure")},
        **{name: named(name) for name in ("annotator", "subject", "best_exo")},
        "clip_id": _clip_ids(takes["take_name"], narrations["annotation"].to_numpy()),
        "start_s": clips.starts_s,
        "end_s": clips.ends_s,
    }
    return pyarrow.table([columns[name] for name in CLIP_SCHEMA.names], schema=CLIP_SCHEMA)


def _clip_ids(take_names: pyarrow.ChunkedArray, annotations: IntArray) -> pyarrow.ChunkedArray:
    """Returns `<take_name>/<annotation>/<number of the narration in its annotation>` for rows sorted by take."""
    takes = take_names.combine_chunks().indices.to_numpy()
    order = numpy.lexsort((annotations, takes))
    is_first = numpy.ones(len(order), dtype=bool)
    is_first[1:] = (takes[order][1:] != takes[order][:-1]) | (annotations[order][1:] != annotations[order][:-1])
    rows = numpy.arange(len(order))
    numbers = numpy.empty_like(rows)
    numbers[order] = rows - numpy.maximum.accumulate(numpy.where(is_first, rows, 0))
    as_text = [pyarrow.array(values).cast(pyarrow.string()) for values in (annotations, numbers)]
    return pyarrow.compute.binary_join_element_wise(take_names.cast(pyarrow.string()), *as_text, "/")


def write_tables(tables: Iterable[pyarrow.Table], parquet_path: Path, arrow_path: Path) -> None:
    """Writes batches to a Parquet file (compact, for other tools) and an Arrow file (to be memory-mapped).

    The repeated texts of a batch must begin with those of the batch before.
    """
    growing = pyarrow.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
    with (
        pyarrow.parquet.ParquetWriter(parquet_path, CLIP_SCHEMA, compression="zstd", store_schema=False) as parquet,
        pyarrow.ipc.new_file(str(arrow_path), CLIP_SCHEMA, options=growing) as arrow,
    ):
        for table in tables:
            parquet.write_table(table)
            arrow.write_table(table)
