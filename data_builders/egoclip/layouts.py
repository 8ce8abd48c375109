"""How the videos of Ego4D lie on a disk: whole, or cut into chunks as EgoVLP and LaViLa do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from data_builders.ego4d import VIDEO_LAYOUTS

Layout = Literal["whole", "egovlp", "lavila"]


class Part(NamedTuple):
    """The part of a clip that one chunk shows, in seconds from the start of that chunk."""

    chunk: int
    start_s: float
    end_s: float
    is_whole: bool
    """False where the clip goes on in another chunk."""


@dataclass(frozen=True)
class VideoFiles:
    """The files of one layout: `chunk_s` is their length, `paths` where they lie below the videos' folder."""

    chunk_s: int | None
    paths: tuple[str, ...]


LAYOUTS: dict[Layout, VideoFiles] = {
    "whole": VideoFiles(None, VIDEO_LAYOUTS),
    "egovlp": VideoFiles(600, ("{video}/{chunk}.mp4",)),  # EgoVLP's README: chunks of at most 600 s, numbered from 0
    "lavila": VideoFiles(300, ("{video}.mp4/{start}.mp4",)),  # LaViLa: every 300 s, named by their first second
}


def longest_part(start_s: float, end_s: float, video_s: float, chunk_s: int) -> Part:
    """Returns the part of a clip that lies in one chunk and is longest, the first of equally long ones.

    A clip is made around its narrated instant, so that the longest part nearly always holds it. The last chunk has no
    end: the length that the table states may be some frames short of the file's.
    """
    last_chunk = max(math.ceil(video_s / chunk_s) - 1, 0)
    candidates = []
    for chunk in range(min(int(start_s // chunk_s), last_chunk), min(int(end_s // chunk_s), last_chunk) + 1):
        first_s, border_s = chunk * chunk_s, math.inf if chunk == last_chunk else (chunk + 1) * chunk_s
        candidates.append((chunk, max(start_s, first_s) - first_s, min(end_s, border_s) - first_s))
    chunk, part_start_s, part_end_s = max(candidates, key=lambda part: part[2] - part[1])
    has_neighbours = sum(part[2] > part[1] for part in candidates) > 1
    return Part(chunk, round(part_start_s, 6), round(part_end_s, 6), not has_neighbours)
