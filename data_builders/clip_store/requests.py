"""Which spans of which videos the records of a file need."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from exo2ego.data.spans import Span
from exo2ego.errors import DataError
from exo2ego.records import Conversation, Question
from exo2ego.storage import read_jsonl

TABLE_SUFFIXES = (".parquet", ".arrow")


class Request(NamedTuple):
    """One clip that some record needs."""

    record_id: str
    span: Span


def read_requests(paths: Sequence[Path], views: Collection[str]) -> Iterator[Request]:
    """Yields every clip that the records need, in their order; raises `DataError` naming file and row."""
    for path in paths:
        yield from _of_table(path, views) if path.suffix in TABLE_SUFFIXES else _of_records(path, views)


def spans_by_video(requests: Iterator[Request], paths: Sequence[Path]) -> tuple[int, dict[str, list[Span]]]:
    """Returns the number of requests, and the distinct spans of each video, both in a fixed order.

    Raises `DataError` where there is none.
    """
    count = 0
    videos: dict[str, set[Span]] = {}
    for request in requests:
        count += 1
        videos.setdefault(request.span.video, set()).add(request.span)
    if not count:
        raise DataError(f"{', '.join(map(str, paths))}: holds no clip of the chosen views; nothing to store")
    return count, {video: sorted(videos[video], key=_in_time) for video in sorted(videos)}


def _in_time(span: Span) -> tuple[float, float, float, str]:
    return span.frame_rate or 0.0, span.start_s or 0.0, float("inf") if span.end_s is None else span.end_s, span.key


def _of_table(path: Path, views: Collection[str]) -> Iterator[Request]:
    from exo2ego.data.clips import read_clips

    table = read_clips(path)
    columns = [table.column(name) for name in ("clip_id", "start_s", "end_s", "ego_video", "exo_videos")]
    for number in range(len(table)):
        clip_id, start_s, end_s, ego, exo = (column[number].as_py() for column in columns)
        videos = [ego] * ("ego" in views) + list(exo) * ("exo" in views)
        yield from (Request(clip_id, Span(video, start_s, end_s)) for video in videos)


def _of_records(path: Path, views: Collection[str]) -> Iterator[Request]:
    for number, row in enumerate(read_jsonl(path, "file of conversations or questions"), 1):
        try:
            record = Question.model_validate(row) if "task" in row else Conversation.model_validate(row)
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
            raise DataError(
                f"{path}: row {number} is neither an EgoIT conversation nor an EgoBench question: {faults}"
            ) from error
        if isinstance(record, Conversation):
            yield from [Request(record.conversation_id, Span.of(record))] * ("ego" in views)
            continue
        if record.frames is not None:
            raise DataError(f"{path}: row {number} ({record.question_id}) lists frames; expected a video with a span")
        videos = [record.video] * ("ego" in views)
        videos += list(record.meta.get("exo_videos") or []) * ("exo" in views)
        yield from (Request(record.question_id, Span.of(record, video)) for video in videos)
