"""Which moments of which video stand for a sample: the one description that readers and the clip store share."""

from __future__ import annotations

import hashlib
import json
from typing import NamedTuple

from exo2ego.records import Conversation, Question


class Span(NamedTuple):
    """A span of a video; times are seconds from its first frame, None is its start or its end."""

    video: str
    """Path relative to the data root."""
    start_s: float | None
    end_s: float | None
    frame_rate: float | None = None
    """Frames per second of a folder of pictures; None for a video file."""
    observation_s: float | None = None
    """The instant that the last frame shows (EgoPlan); None: the last frame is one of the span."""

    @classmethod
    def of(cls, record: Conversation | Question, video: str | None = None) -> Span:
        """Returns the span that a record is about, in its own video or in another one of the same event."""
        observation_s = record.observation_s if isinstance(record, Question) else None
        return cls(video or record.video, record.start_s, record.end_s, record.frame_rate, observation_s)

    @property
    def key(self) -> str:
        """Returns the name of the span in a clip store: 32 hexadecimal digits, equal for equal spans only."""
        times = [None if value is None else float(value) for value in self[1:]]
        return hashlib.sha256(json.dumps([self.video, *times]).encode()).hexdigest()[:32]
