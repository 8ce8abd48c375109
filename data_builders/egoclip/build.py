"""From egoclip.csv to the clip table, row by row: memory does not grow with the file."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
from pydantic import Field, TypeAdapter, ValidationError

from data_builders.ego_exoclip.table import BATCH_ROWS, write_tables
from data_builders.egoclip.layouts import LAYOUTS, Layout, Part, longest_part
from data_builders.egoclip.narrations import EgoClipRow, TagPolicy, is_unsure, narration_text, subject_of
from data_builders.media import MediaFolder
from data_builders.paper_counts import PaperCount, compare
from data_builders.source import Account, DatasetOptions
from exo2ego.console import track
from exo2ego.data.clips import CLIP_SCHEMA
from exo2ego.errors import DataError
from exo2ego.provenance import provenance
from exo2ego.raw.files import RawFiles
from exo2ego.raw.rows import FileStem
from exo2ego.storage import atomic_path, hash_file, remove_leftovers, write_json

WHAT = "EgoClip table"
PAPER = PaperCount(3_800_000, "Table 1", rounded_to=100_000)
OFFICIAL_ROWS = 3_847_723
"""Rows of egoclip.csv as its authors count them (EgoVLP's README)."""
# Replaced together when everything is written; the first takes its place last and so marks a complete build.
OUTPUTS = ("egoclip.summary.json", "clips.parquet", "clips.arrow")


class EgoClipOptions(DatasetOptions):
    """Options of the EgoClip builder."""

    layout: Layout = "whole"
    """How the videos lie: whole (where the Ego4D tool puts them, or UID.mp4), in EgoVLP's chunks of 600 s (UID/0.mp4,
    UID/1.mp4, …), or in LaViLa's of 300 s (UID.mp4/0.mp4, UID.mp4/300.mp4, …)."""
    tags: TagPolicy = "remove"
    """The tags #C, #O and #unsure: taken out, as in Ego-Exo4D's texts; spelled out, as Ego4D's code does; or kept."""
    drop_unsure: bool = False
    """Leave out narrations in which the annotator could not name something (#unsure)."""
    max_bad_share: float = Field(default=0.01, ge=0, le=1)
    """The build stops when more than this share of the rows is not valid; up to it they are counted and left out."""


class EgoClips:
    """Iterates over the clip table in batches, and accounts for every row."""

    def __init__(self, options: EgoClipOptions, files: RawFiles, account: Account) -> None:
        self._options = options
        self._files = files
        self._path = files.find("egoclip.csv", what="the table of clips")
        self._account = account
        self._layout = LAYOUTS[options.layout]
        self._media = MediaFolder(options, self._layout.paths, account)
        self._seen = _SeenIndices()
        self._uids: dict[str, str] = {}
        self._columns = _Columns()
        self.rows_read = 0
        self.total_s = 0.0
        self.below_1s = 0
        self.subjects: Counter[str] = Counter()

    def __iter__(self) -> Iterator[pyarrow.Table]:
        """Yields tables of `CLIP_SCHEMA` in the order of the file."""
        rows = self._files.csv_rows(
            self._path, EgoClipRow, WHAT, delimiter="\t", quoting=False, bad_row=self._account.drop
        )
        for where, row in rows:
            self._add(where, row)
            if len(self._columns) >= BATCH_ROWS:
                yield self._columns.take()
        if len(self._columns):
            yield self._columns.take()
        bad = self._account.dropped["not_a_valid_row"]
        self.rows_read = self._seen.count + bad
        if bad > self._options.max_bad_share * self.rows_read:
            raise DataError(
                f"{self._path}: {bad:,} of {self.rows_read:,} rows are not valid, max_bad_share is "
                f"{self._options.max_bad_share}; the first: {self._account.examples['not_a_valid_row'][0]}"
            )

    def _add(self, where: str, row: EgoClipRow) -> None:
        self._seen.add(where, row.clip_idx)
        uid = self._uids.get(row.video_uid) or self._checked_uid(where, row.video_uid)
        text = narration_text(row.clip_text, self._options.tags)
        unsure = is_unsure(row.clip_text)
        reason = self._reason_to_drop(row, text, unsure)
        if reason:
            return self._account.drop(reason, where)
        start_s, end_s = max(row.clip_start, 0.0), min(row.clip_end, row.video_dur)
        part, offset_s = self._part(start_s, end_s, row.video_dur)
        video = self._media.find(where, video=uid, chunk=str(part.chunk), start=str(offset_s))
        if video is None:
            return None
        if row.clip_start < 0:
            self._account.note("started_before_the_video", where)
        if row.clip_end > row.video_dur:
            self._account.note("ended_after_the_video", where)
        if not part.is_whole:
            self._account.note("cut_at_the_border_of_a_chunk", where)
        length_s = part.end_s - part.start_s
        self.total_s += length_s
        self.below_1s += length_s < 1
        subject = subject_of(row.clip_text)
        self.subjects[subject] += 1
        self._account.kept["clips"] += 1
        self._columns.add(
            clip_id=f"egoclip/{row.clip_idx}",
            take=uid,
            span=(part.start_s, part.end_s, round(row.narration_time - offset_s, 6)),
            text=text,
            annotator=row.narration_source,
            video=video,
            subject=subject,
            unsure=unsure,
        )
        return None

    def _checked_uid(self, where: str, uid: str) -> str:
        try:
            self._uids[uid] = TypeAdapter(FileStem).validate_python(uid)
        except ValidationError as error:
            raise DataError(f"{where}: video_uid: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error
        return uid

    def _reason_to_drop(self, row: EgoClipRow, text: str, unsure: bool) -> str:
        if not text:
            return "no_text"
        if row.clip_end < row.clip_start:
            return "ends_before_it_starts"
        if row.clip_start > row.video_dur or row.clip_end < 0:
            return "outside_the_video"
        return "unsure" if unsure and self._options.drop_unsure else ""

    def _part(self, start_s: float, end_s: float, video_s: float) -> tuple[Part, int]:
        """Returns what one file shows of a clip, and the second of the video at which that file starts."""
        if self._layout.chunk_s is None:
            return Part(0, start_s, end_s, is_whole=True), 0
        part = longest_part(start_s, end_s, video_s, self._layout.chunk_s)
        return part, part.chunk * self._layout.chunk_s


class _SeenIndices:
    """The clip indices of the rows so far, one byte each."""

    def __init__(self) -> None:
        self._seen = bytearray(BATCH_ROWS)
        self.count = 0

    def add(self, where: str, index: int) -> None:
        """Raises `DataError` for an index that a row before had."""
        if index >= len(self._seen):
            self._seen.extend(bytes(index + 1 + (index >> 2) - len(self._seen)))
        if self._seen[index]:
            raise DataError(f"{where}: clip_idx {index} is given twice; ids must be unique: is the file whole?")
        self._seen[index] = 1
        self.count += 1


class _SharedTexts:
    """Texts that many rows share; the list only grows, which lets the Arrow file store what is new in a batch."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def encode(self, texts: Iterable[str]) -> pyarrow.DictionaryArray:
        places = self._places
        indices = [places.setdefault(text, len(places)) for text in texts]
        return pyarrow.DictionaryArray.from_arrays(
            pyarrow.array(indices, pyarrow.int32()), pyarrow.array(list(places), pyarrow.string())
        )


class _Columns:
    """The rows of the next batch, column by column."""

    _SHARED = (
        "take_uid",
        "take_name",
        "annotator",
        "ego_video",
        "university",
        "scenario",
        "task",
        "subject",
        "best_exo",
    )

    def __init__(self) -> None:
        self._shared = {name: _SharedTexts() for name in self._SHARED}
        self._values: dict[str, list[Any]] = {name: [] for name in CLIP_SCHEMA.names}

    def __len__(self) -> int:
        return len(self._values["clip_id"])

    def add(
        self,
        *,
        clip_id: str,
        take: str,
        span: tuple[float, float, float],
        text: str,
        annotator: str,
        video: str,
        subject: str,
        unsure: bool,
    ) -> None:
        row: tuple[Any, ...] = (
            clip_id,
            take,
            take,
            *span,
            text,
            annotator,
            video,
            [],
            "",
            "",
            "",
            subject,
            None,
            unsure,
            "",
        )
        for values, value in zip(self._values.values(), row, strict=True):
            values.append(value)

    def take(self) -> pyarrow.Table:
        """Returns the batch and starts the next."""
        columns = [
            self._shared[name].encode(values)
            if name in self._shared
            else pyarrow.array(values, CLIP_SCHEMA.field(name).type)
            for name, values in self._values.items()
        ]
        for values in self._values.values():
            values.clear()
        return pyarrow.table(columns, schema=CLIP_SCHEMA)


def build(options: EgoClipOptions) -> dict[str, Any]:
    """Builds clips.parquet and clips.arrow with their summary, which is returned.

    Raises `DataError` and leaves the output folder as it was when the table is missing or malformed.
    """
    account = Account()
    files = RawFiles(options.root, "EgoClip")
    clips = EgoClips(options, files, account)
    remove_leftovers(options.out)
    with contextlib.ExitStack() as stack:
        output = {name: stack.enter_context(atomic_path(options.out / name)) for name in OUTPUTS}
        write_tables(track(clips, "batches of clips"), output["clips.parquet"], output["clips.arrow"])
        if not account.kept["clips"]:
            raise DataError(f"{options.root}: EgoClip: no row was kept; left out: {dict(account.dropped)}")
        account.inputs = files.hashes()
        summary = _summary(options, account, clips, output)
        write_json(output["egoclip.summary.json"], summary)
        (options.out / "egoclip.summary.json").unlink(missing_ok=True)  # it tells of the tables that now go
    return summary


def _summary(options: EgoClipOptions, account: Account, clips: EgoClips, output: dict[str, Path]) -> dict[str, Any]:
    rows = account.kept["clips"]
    return {
        "source": "egoclip",
        "tables": {
            "clips": {
                "files": {name: hash_file(output[name]) for name in OUTPUTS[1:]},
                "rows": rows,
            }
        },
        "paper": [compare("egoclip", PAPER, rows)],
        "dropped": dict(sorted(account.dropped.items())),
        "noted": dict(sorted(account.noted.items())),
        "examples": account.examples,
        "facts": {
            "rows read": clips.rows_read,
            "rows of the official file": OFFICIAL_ROWS,
            "hours": round(clips.total_s / 3600, 3),
            "mean seconds": round(clips.total_s / rows, 4),
            "share below 1 s": round(clips.below_1s / rows, 4),
            "of the wearer (#C)": clips.subjects["C"],
            "of others (#O)": clips.subjects["O"],
        },
        "provenance": provenance(options.model_dump(mode="json"), inputs=account.inputs),
    }
