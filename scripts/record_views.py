"""Which parts of which videos a record is about."""

from __future__ import annotations

from collections.abc import Iterator

from exo2ego.data.spans import Span
from exo2ego.records import Clip, Conversation, Prediction, Question, Record


def views_of(record: Record) -> Iterator[tuple[str, Span]]:
    """Yields ("ego" or "exo", span) of a record: the ego video first, then every exo video that it names."""
    if isinstance(record, Clip):
        yield "ego", Span(record.ego_video, record.start_s, record.end_s)
        for video in record.exo_videos:
            yield "exo", Span(video, record.start_s, record.end_s)
    elif isinstance(record, Conversation | Question):
        yield "ego", Span.of(record)
        videos = record.meta.get("exo_videos") if isinstance(record, Question) else None
        for video in videos if isinstance(videos, list) else ():
            yield "exo", Span.of(record, str(video))
    elif isinstance(record, Prediction):
        yield "ego", Span(record.video, None, None)
