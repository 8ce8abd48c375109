"""Frames of a record's videos as small pictures inside the page, within a bound on their total size."""

from __future__ import annotations

import base64
import io
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exo2ego.data.spans import Span
from exo2ego.errors import VideoError

MAX_HEIGHT = 168
WEBP_QUALITY = 60


@dataclass(frozen=True)
class Shot:
    """One frame."""

    address: str
    """The picture as a data address."""
    width: int
    height: int
    time: str


@dataclass(frozen=True)
class View:
    """One video of a record: its frames, or why there are none."""

    name: str
    video: str
    shots: list[Shot]
    fault: str = ""


@dataclass
class FrameStrips:
    """Reads the frames of spans until the page holds `max_bytes` of pictures; counts what could not be shown."""

    media_root: Path | None
    num_frames: int
    max_bytes: int
    num_bytes: int = 0
    num_shown: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    """Views without frames, by reason."""

    def __call__(self, name: str, span: Span) -> View:
        """Returns the frames of a span, or the reason in their place."""
        if self.media_root is None:
            return View(name, span.video, [], "no frames: give --media-root, the folder that the paths start from")
        if self.num_bytes >= self.max_bytes:
            self.failures["page_full"] += 1
            return View(name, span.video, [], "left out: the page has reached its size; see --max-megabytes")
        from exo2ego.data.video import read_span

        try:
            frames, _, labels = read_span(self.media_root, span, self.num_frames)
        except VideoError as error:
            self.failures[error.reason] += 1
            return View(name, span.video, [], f"{error.reason}: {error.detail}")
        shots = [self._shot(frame, label) for frame, label in zip(frames, labels, strict=True)]
        self.num_shown += 1
        return View(name, span.video, shots)

    def _shot(self, frame: Any, time: str) -> Shot:
        from PIL import Image

        picture = Image.fromarray(frame)
        picture.thumbnail((2 * MAX_HEIGHT, MAX_HEIGHT))
        stream = io.BytesIO()
        picture.save(stream, format="WEBP", quality=WEBP_QUALITY)
        address = "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
        self.num_bytes += len(address)
        return Shot(address, picture.width, picture.height, time)
