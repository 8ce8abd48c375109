"""The queries of Ego4D's natural language queries (`nlq_val.json`, v1), which QAEgo4D answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from exo2ego.errors import DataError
from exo2ego.raw.files import RawFiles
from exo2ego.raw.json_stream import stream_members
from exo2ego.raw.rows import FileStem, OptionalText, RawRow, Seconds, describe_faults

ClipSeconds = Annotated[Seconds, Field(ge=-86_400, le=86_400)]


class QueryRow(RawRow):
    """An item of `language_queries`."""

    query: OptionalText | None = None
    clip_start_sec: ClipSeconds | None = None
    clip_end_sec: ClipSeconds | None = None


class AnnotationRow(RawRow):
    """The queries of one annotator about one clip."""

    annotation_uid: FileStem
    language_queries: list[QueryRow]


class ClipRow(RawRow):
    """A canonical clip."""

    clip_uid: FileStem
    annotations: list[AnnotationRow]


class VideoRow(RawRow):
    """A video of Ego4D."""

    video_uid: FileStem
    clips: list[ClipRow]


class NlqFile(RawRow):
    """The part of `nlq_val.json` that is read."""

    videos: list[VideoRow] = Field(min_length=1)


@dataclass(frozen=True)
class Query:
    """A query and where its answer is seen, in seconds from the start of the clip."""

    sample_id: str
    """`<annotation uid>_<place among the annotation's queries>`, from 0."""
    text: str
    video_uid: str
    clip_uid: str
    clip_start_s: float
    clip_end_s: float


def read_queries(files: RawFiles, path: Path) -> Iterator[tuple[str, Query]]:
    """Yields (place, query) in the order of the file, without queries that have no text; raises `DataError`."""
    what = "Ego4D's natural language queries"
    members = {name: value for name, value in stream_members(files.use(path), what) if name == "videos"}
    try:
        content = NlqFile.model_validate(members)
    except ValidationError as error:
        raise DataError(f"{path}: {what}: {describe_faults(error)}") from error
    for video in content.videos:
        for clip in video.clips:
            for annotation in clip.annotations:
                for number, query in enumerate(annotation.language_queries):
                    if query.query:
                        sample_id = f"{annotation.annotation_uid}_{number}"
                        where = f"{path}: query {sample_id}"
                        yield where, _query(query, sample_id, video.video_uid, clip.clip_uid, where)


def _query(row: QueryRow, sample_id: str, video_uid: str, clip_uid: str, where: str) -> Query:
    if row.clip_start_sec is None or row.clip_end_sec is None:
        raise DataError(f"{where}: clip_start_sec or clip_end_sec is not there")
    return Query(sample_id, row.query or "", video_uid, clip_uid, row.clip_start_sec, row.clip_end_sec)
