"""Narrations of one take from its raw annotations, and a file on disk that holds them until α is known."""

from __future__ import annotations

import math
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

import pyarrow

from data_builders.ego_exoclip.clip_rule import beta_s
from data_builders.ego_exoclip.egoexo4d import FLAGS
from data_builders.ego_exoclip.filters import DropLog

DropRule = Literal["rejected", "unsure", "not-ego-visible", "other-subject"]
"""Narrations that can be left out; the paper names no such filter, a rejected annotation is left out by default."""


class Narration(NamedTuple):
    """One description of an annotator; the first three fields give its order in the take."""

    timestamp_s: float
    annotation: int
    text: str
    annotator: str
    subject: str
    ego_visible: bool | None
    unsure: bool | None
    best_exo: str


@dataclass(frozen=True)
class TakeBetas:
    """β of one take in seconds, of all its narrations merged and of each annotation alone; None where undefined."""

    merged: float | None
    by_annotation: dict[int, float | None]
    """By annotation number; annotations without narrations are absent."""


@dataclass(frozen=True)
class NarrationReader:
    """Turns the raw annotations of a take into narrations in an order that does not depend on the file's."""

    drop: frozenset[DropRule]
    spell_out_wearer: bool
    drops: DropLog

    def read(self, take_uid: str, annotations: Sequence[Mapping[str, Any]]) -> list[Narration]:
        """Returns the take's narrations sorted by time, ties by annotation and text.

        Raises KeyError, TypeError, ValueError or AttributeError where the annotations are malformed.
        """
        narrations: list[Narration] = []
        by_uid = sorted(annotations, key=lambda one: (str(one.get("annotation_uid")), str(one["annotator_id"])))
        for number, annotation in enumerate(by_uid):
            if "rejected" in self.drop and FLAGS[annotation.get("rejected")]:
                self.drops.add("annotation", "rejected", take_uid)
            else:
                narrations += _descriptions(annotation, number)
        kept = self._without_dropped(take_uid, narrations)
        if self.spell_out_wearer:
            kept = [one._replace(text=re.sub(r"\bC\b", "Camera-wearer", one.text)) for one in kept]
        return sorted(kept, key=itemgetter(0, 1, 2))

    def _without_dropped(self, take_uid: str, narrations: list[Narration]) -> list[Narration]:
        kept: list[Narration] = []
        for narration in narrations:
            if not narration.text:
                reason = "empty_text"
            elif narration.timestamp_s == math.inf:
                reason = "no_timestamp"
            elif narration.unsure and "unsure" in self.drop:
                reason = "unsure"
            elif narration.ego_visible is False and "not-ego-visible" in self.drop:
                reason = "not_ego_visible"
            elif narration.subject not in ("C", "") and "other-subject" in self.drop:
                reason = "other_subject"
            else:
                kept.append(narration)
                continue
            self.drops.add("narration", reason, take_uid, f"annotation {narration.annotation}")
        return kept


def _descriptions(annotation: Mapping[str, Any], number: int) -> Iterator[Narration]:
    """Yields an annotation's narrations; field by field, which takes half the time of row by row."""
    rows = annotation["descriptions"]
    fields = (
        [_seconds(row["timestamp"]) for row in rows],
        repeat(number),
        [(row["text"] or "").strip() for row in rows],
        repeat(str(annotation["annotator_id"])),
        [row.get("subject") or row.get("narration_subject") or "" for row in rows],
        [FLAGS[row.get("ego_visible")] for row in rows],
        [FLAGS[row.get("unsure")] for row in rows],
        [(row.get("best_exo") or {}).get("cam_id") or "" for row in rows],
    )
    return map(Narration._make, zip(*fields, strict=False))


def _seconds(timestamp: float | None) -> float:
    """Returns a timestamp as a number that sorts; infinity stands for none (null or NaN)."""
    return math.inf if timestamp is None or not math.isfinite(timestamp) else float(timestamp)


SPOOL_SCHEMA = pyarrow.schema(
    {
        "timestamp_s": pyarrow.float64(),
        "annotation": pyarrow.int32(),
        "text": pyarrow.string(),
        "annotator": pyarrow.int32(),
        "subject": pyarrow.int32(),
        "ego_visible": pyarrow.bool_(),
        "unsure": pyarrow.bool_(),
        "best_exo": pyarrow.int32(),
    }
)
"""The fields of `Narration`; annotator, subject and best_exo as numbers of `NarrationSpool.names`."""


class _Numbers(dict[str, int]):
    """Numbers names in the order of their first use."""

    def __missing__(self, name: str) -> int:
        self[name] = len(self)
        return self[name]


class NarrationSpool:
    """Narrations by take in an unnamed temporary file, so that memory does not grow with their number.

    The file vanishes with the process, also when it is killed. Write all takes, then read them in any order.
    """

    def __init__(self, folder: Path) -> None:
        self.names = _Numbers()
        self.betas: dict[str, TakeBetas] = {}
        self._batches: dict[str, int] = {}
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
        self._writer = pyarrow.ipc.new_file(self._file, SPOOL_SCHEMA)
        self._read_batch: Callable[[int], pyarrow.RecordBatch] | None = None

    def __enter__(self) -> NarrationSpool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, take_uid: str, narrations: Sequence[Narration]) -> None:
        """Appends the narrations of one take, at least one."""
        columns: dict[str, Sequence[Any]] = dict(zip(Narration._fields, zip(*narrations, strict=True), strict=True))
        for name in ("annotator", "subject", "best_exo"):
            columns[name] = [self.names[value] for value in columns[name]]
        self._batches[take_uid] = len(self._batches)
        arrays = [pyarrow.array(columns[field.name], field.type) for field in SPOOL_SCHEMA]
        self._writer.write_batch(pyarrow.RecordBatch.from_arrays(arrays, schema=SPOOL_SCHEMA))
        alone: defaultdict[int, list[float]] = defaultdict(list)
        for timestamp_s, annotation in zip(columns["timestamp_s"], columns["annotation"], strict=True):
            alone[annotation].append(timestamp_s)
        betas = {annotation: beta_s(times) for annotation, times in alone.items()}
        self.betas[take_uid] = TakeBetas(beta_s(columns["timestamp_s"]), betas)

    def read(self, take_uid: str) -> pyarrow.RecordBatch:
        """Returns the narrations of one take; the first call ends writing."""
        if self._read_batch is None:
            self._writer.close()
            self._file.seek(0)
            self._read_batch = pyarrow.ipc.open_file(self._file).get_batch
        return self._read_batch(self._batches[take_uid])
