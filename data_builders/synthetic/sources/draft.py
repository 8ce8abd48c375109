"""A raw dataset while it is written: its folder, the events it may speak of, and the ground truth it leaves behind."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from data_builders.synthetic.config import FRAMES_PER_SECOND
from data_builders.synthetic.sources.rendered_takes import RenderedTake
from data_builders.synthetic.video import planes_of, read_frames, video_size, write_video
from data_builders.synthetic.world import Event
from exo2ego.records import Record


class Truth(Record):
    """What a row of a raw file says, and why it is true."""

    table: str
    """The table that a builder makes of the row."""
    key: str
    """The row's own id in the raw file, or what else names it there."""
    video: str
    """Relative to the dataset's folder."""
    start_s: float | None
    """Span of the row within its video; None: the whole video."""
    end_s: float | None
    question: str = ""
    answer: str
    wrong: tuple[str, ...] = ()
    """Options that the raw file gives and that are false."""
    take_uid: str
    offset_s: float = 0.0
    """Instant of the take at which the video begins."""
    events: tuple[int, ...]
    """The take's events that make the answer true, by their place in time order."""
    trap: str = ""
    """Irregularity of this row, by its name in the record of the generated sources."""


@dataclass
class Draft:
    """What a layout writes into; random numbers depend on the seed and the source alone."""

    folder: Path
    takes: Sequence[RenderedTake]
    rows: int
    """Rows per file at most."""
    chance: random.Random
    truths: list[Truth] = field(default_factory=list)
    traps: Counter[str] = field(default_factory=Counter)

    def moments(self) -> list[tuple[RenderedTake, int]]:
        """Returns every event (take, place in time order) in random order."""
        every = [(take, index) for take in self.takes for index in range(len(take.events))]
        self.chance.shuffle(every)
        return every

    def uid(self) -> str:
        """Draws an id in the form of a UUID."""
        digits = f"{self.chance.getrandbits(128):032x}"
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

    def json(self, name: str, value: Any) -> None:
        """Writes a JSON file."""
        self.path(name).write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def text(self, name: str, text: str) -> None:
        """Writes a text file."""
        self.path(name).write_text(text, encoding="utf-8")

    def csv(self, name: str, rows: Sequence[dict[str, Any]], *, quoted: bool = False) -> None:
        """Writes a table with a header; `quoted`: every field in double quotes."""
        with self.path(name).open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(
                stream, list(rows[0]), quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL, lineterminator="\n"
            )
            writer.writeheader()
            writer.writerows(rows)

    def link(self, source: Path, name: str) -> None:
        """Puts a whole rendered video under another name: a hard link, or a copy where the disk has none."""
        target = self.path(name)
        if target.exists():
            return
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(source, target)

    def cut(self, take: RenderedTake, name: str, start_s: float, end_s: float, frame_rate: int = 30) -> None:
        """Encodes [start_s, end_s) of a take's egocentric video as a file of its own."""
        count = max(1, round((end_s - start_s) * frame_rate))
        frames = [
            min(round((start_s + number / frame_rate) * FRAMES_PER_SECOND), take.num_frames - 1)
            for number in range(count)
        ]
        planes = map(planes_of, read_frames(take.ego_video, frames))
        write_video(self.path(name), planes, video_size(take.ego_video), frame_rate)

    def pictures(self, take: RenderedTake, frames: Sequence[int]) -> Iterator[Image.Image]:
        """Yields frames of a take's egocentric video, by ascending number, as pictures."""
        return (frame.to_image() for frame in read_frames(take.ego_video, frames))

    def set_trap(self, name: str) -> str:
        """Counts an irregularity and returns its name."""
        self.traps[name] += 1
        return name

    def path(self, name: str) -> Path:
        """Returns where a file goes; its folder is there."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


@dataclass(frozen=True)
class Layout:
    """How one raw dataset is written."""

    name: str
    split: Literal["train", "val"]
    """Takes that it is made of."""
    write: Callable[[Draft], None]


def span_of(events: Sequence[Event]) -> tuple[float, float]:
    """Returns the seconds from the first event's start to the last one's end."""
    return events[0].start_s, events[-1].end_s
