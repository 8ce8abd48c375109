"""Where the clips of EgoMCQ lie: in whole Ego4D videos, or in the chunks that EgoVLP and LaViLa cut them into."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from data_builders.ego4d import VIDEO_LAYOUTS
from data_builders.media import MediaFolder
from data_builders.source import Account, SourceOptions

EGOVLP_CHUNK_S = 600.0
LAVILA_CHUNK_S = 300.0


class Span(NamedTuple):
    """A part of a video file, in seconds of that file."""

    video: str
    """Path relative to the media root."""
    start_s: float
    end_s: float


class EgoMCQVideos:
    """Finds clips in whole videos, `<uid>/<number>.mp4` (EgoVLP) or `<uid>.mp4/<start>.mp4` (LaViLa)."""

    def __init__(self, options: SourceOptions, account: Account, chunk_s: float | None) -> None:
        self._folder = Path(options.videos_folder)
        self._account = account
        self._whole = MediaFolder(options, VIDEO_LAYOUTS, account)
        self._chunks = MediaFolder(options, ("{folder}/{chunk}.mp4",), account)
        self._chunk_s = chunk_s
        self._cut: dict[str, tuple[str, float, float] | None] = {}

    def find(self, where: str, uid: str, start_s: float, end_s: float) -> Span | None:
        """Returns the file and the span in it; None where the row must be left out (`MediaFolder.find`).

        Of a clip that crosses the border of two chunks, the longer part is shown, the first where both are equal.
        """
        cut = self._chunks_of(uid)
        if cut is None:
            video = self._whole.find(where, video=uid)
            return None if video is None else Span(video, start_s, end_s)
        folder, chunk_s, number_unit = cut
        number = chunk_with_most(start_s, end_s, chunk_s)
        first_s, last_s = number * chunk_s, (number + 1) * chunk_s
        video = self._chunks.find(where, folder=folder, chunk=f"{round(number * number_unit)}")
        if video is None:
            return None
        if start_s < first_s or end_s > last_s:
            self._account.note("the clip crosses the border of two chunks: its longer part is shown", where)
        return Span(video, round(max(start_s, first_s) - first_s, 6), round(min(end_s, last_s) - first_s, 6))

    def _chunks_of(self, uid: str) -> tuple[str, float, float] | None:
        """Returns folder, seconds per chunk and what a file name counts per chunk, None for a whole video."""
        if uid not in self._cut:
            found = None
            if (self._folder / f"{uid}.mp4").is_dir():
                chunk_s = self._chunk_s or LAVILA_CHUNK_S
                found = f"{uid}.mp4", chunk_s, chunk_s
            elif (self._folder / uid).is_dir():
                found = uid, self._chunk_s or EGOVLP_CHUNK_S, 1.0
            self._cut[uid] = found
        return self._cut[uid]


def chunk_with_most(start_s: float, end_s: float, chunk_s: float) -> int:
    """Returns the number of the chunk that holds most of a clip."""
    first, last = math.floor(start_s / chunk_s), math.floor(end_s / chunk_s)
    held = {
        number: min(end_s, (number + 1) * chunk_s) - max(start_s, number * chunk_s) for number in range(first, last + 1)
    }
    return max(held, key=lambda number: (held[number], -number))
