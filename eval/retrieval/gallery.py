"""The full gallery of EPIC-KITCHENS-100 retrieval: its clips and captions, embedded once each, part by part.

The folder of parts belongs to one run key; a kill loses at most one part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from pydantic import Field

from eval.retrieval.ek100_test_set import NarrationRow, read_test_set
from eval.retrieval.encoders import DualEncoder, Embeddings
from eval.score_matrices import map_array
from exo2ego.console import track
from exo2ego.data.video import read_frames
from exo2ego.errors import DataError, EvaluationError, VideoError
from exo2ego.parallel import in_order
from exo2ego.raw.epic_kitchens import VIDEO_LAYOUTS
from exo2ego.raw.rows import ClockSeconds, FileStem, Text
from exo2ego.storage import atomic_path, read_json, remove_leftovers, write_json, write_jsonl

CLIPS_PER_PART = 128
RUN_FILE = "run.json"
FAILURES_FILE = "failures.jsonl"


class ClipRow(NarrationRow):
    """A row of EPIC_100_retrieval_test.csv."""

    participant: FileStem = Field(validation_alias="participant_id")
    video: FileStem = Field(validation_alias="video_id")
    start_s: ClockSeconds = Field(validation_alias="start_timestamp")
    end_s: ClockSeconds = Field(validation_alias="stop_timestamp")
    caption: Text = Field(validation_alias="narration")


@dataclass(frozen=True)
class Gallery:
    """Clips (rows) and captions (columns) in the order of their files."""

    clips: list[ClipRow]
    captions: list[str]


def read_gallery(videos: Path, sentences: Path) -> Gallery:
    """Reads both files; a caption is the narration of the clip that it was written for. Raises `DataError`."""
    clips, captions = read_test_set(videos, sentences, ClipRow)
    return Gallery(clips, [clip.caption for clip in captions])


def embed_clips(
    clips: Sequence[ClipRow], encoder: DualEncoder, media_root: Path, parts: Path, key: dict[str, Any], workers: int
) -> Embeddings:
    """Returns the embeddings [N, D] of all clips; those of finished parts are not made again.

    Raises `EvaluationError` when the folder of parts is another run's, or an embedding is not finite; `DataError` when
    clips cannot be read, which are then listed in `failures.jsonl` there: no row of a gallery may be left out.
    """
    _claim(parts, key)
    rows: list[Embeddings] = []
    failures: list[VideoError] = []
    starts = range(0, len(clips), CLIPS_PER_PART)
    for start in track(starts, "parts of clips", total=len(starts)):
        path = parts / f"clips-{start:06d}.npy"
        part = clips[start : start + CLIPS_PER_PART]
        if not path.exists():
            embedded, unreadable = _embed(part, encoder, media_root, workers)
            failures += unreadable
            if unreadable:
                continue
            with atomic_path(path) as temporary, temporary.open("wb") as stream:
                numpy.save(stream, embedded)
        rows.append(_read_part(path, len(part)))
    if failures:
        listed = ({"video": error.path, "reason": error.reason, "detail": error.detail} for error in failures)
        write_jsonl(parts / FAILURES_FILE, listed)
        raise DataError(
            f"{len(failures)} of {len(clips)} clips cannot be read, the first: {failures[0]}; all are listed in "
            f"{parts / FAILURES_FILE}. Every clip of the gallery is needed: repair them and run again"
        )
    return numpy.concatenate(rows)


def _claim(parts: Path, key: dict[str, Any]) -> None:
    path = parts / RUN_FILE
    if path.exists():
        former = read_json(path, "description of the run")
        changed = [name for name in {**former, **key} if former.get(name) != key.get(name)]
        if changed:
            raise EvaluationError(
                f"{parts}: holds clips of another run ({', '.join(changed)} differ); give another --out, or remove it"
            )
    else:
        write_json(path, key)
    remove_leftovers(parts)
    (parts / FAILURES_FILE).unlink(missing_ok=True)


def _embed(
    clips: Sequence[ClipRow], encoder: DualEncoder, media_root: Path, workers: int
) -> tuple[Embeddings, list[VideoError]]:
    def read(clip: ClipRow) -> Any:
        try:
            path = _locate(clip, media_root)
            return read_frames(path, clip.start_s, clip.end_s, encoder.num_frames, within=media_root)
        except VideoError as error:
            return error

    rows, failures = [], []
    for clip, frames in zip(clips, in_order(read, clips, workers), strict=True):
        if isinstance(frames, VideoError):
            failures.append(frames)
            continue
        row = encoder.encode_video(frames)
        if not numpy.isfinite(row).all():
            raise EvaluationError(f"clip {clip.narration_id}: its embedding is not finite; are the weights damaged?")
        rows.append(row)
    return numpy.stack(rows) if rows else numpy.empty((0, 0), numpy.float32), failures


def _locate(clip: ClipRow, media_root: Path) -> Path:
    names = {"participant": clip.participant, "video": clip.video}
    places = [media_root / layout.format(**names) for layout in VIDEO_LAYOUTS]
    return next((path for path in places if path.is_file()), places[0])


def _read_part(path: Path, num_clips: int) -> Embeddings:
    try:
        rows: Embeddings = numpy.array(map_array(path))
    except DataError as error:
        raise DataError(f"{error}; remove it and run again") from error
    if rows.ndim != 2 or len(rows) != num_clips:
        raise DataError(f"{path}: has shape {rows.shape}, expected {num_clips} rows; remove it and run again")
    return rows


def embed_captions(captions: Sequence[str], encoder: DualEncoder) -> Embeddings:
    """Returns the embeddings [M, D], each text embedded once; raises `EvaluationError` when one is not finite."""
    places = {text: place for place, text in enumerate(dict.fromkeys(captions))}
    rows = encoder.encode_text(list(places))
    bad = [text for text, place in places.items() if not numpy.isfinite(rows[place]).all()]
    if bad:
        raise EvaluationError(f"the embedding of {bad[0]!r} is not finite; are the weights damaged?")
    return rows[[places[text] for text in captions]]
