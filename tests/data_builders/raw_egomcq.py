"""A made-up EgoMCQ in its real layout: wrong types, texts that coincide, clips before 0 and over chunk borders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

KITCHEN, GARDEN, GARAGE = (f"{digit * 8}-2743-47fc-8564-d5efd11f9e90" for digit in "123")
ACTIONS = (
    "#C C picks a bag of clothes from the floor",
    "#C C drops the bag on the table",
    "#C C carries his bag",
    "#C C opens the tap",
    "#C C washes the plate with her left hand",
    "#O A man X talks to C",
    "#C C closes the drawer",
    "#C C slowly turns around",
    "#C C is cutting the grass",
    "#C C  Holds lady w hair",
    "#C C stops the #unsure",
    "#C C looks around",
)


def clip(video: str, number: int, start_s: float, **changes: Any) -> dict[str, Any]:
    """Returns a clip record of 0.8 s with one of the texts."""
    return {
        "video_uid": video,
        "video_dur": 1300.5,
        "narration_source": "narration_pass_1",
        "narration_ind": number,
        "narration_time": start_s + 0.4,
        "clip_start": start_s,
        "clip_end": start_s + 0.8,
        "clip_text": ACTIONS[number],
        "tag_verb": "[93]",
        "tag_noun": "[192, 115]",
        **changes,
    }


def entry(answer: int, types: int, clips: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns one question about five clips."""
    choices = {str(number): record for number, record in enumerate(clips)}
    return {"answer": answer, "types": types, "query": clips[answer], "choices": choices}


def intra(answer: int, types: int, video: str, numbers: tuple[int, ...], first_s: float) -> dict[str, Any]:
    """Returns a question about clips of one video, a second apart."""
    return entry(answer, types, [clip(video, number, first_s + place) for place, number in enumerate(numbers)])


def inter(answer: int, types: int, numbers: tuple[int, ...], first_s: float) -> dict[str, Any]:
    """Returns a question about clips of three videos."""
    videos = (KITCHEN, GARDEN, GARAGE, GARDEN, GARAGE)
    return entry(answer, types, [clip(video, number, first_s) for video, number in zip(videos, numbers, strict=True)])


def write_egomcq(root: Path) -> None:
    """Writes seven questions in the order inter, intra, …; the kitchen's video is cut as LaViLa does, one file."""
    questions = [
        inter(0, 1, (0, 8, 9, 7, 10), 5.0),
        intra(3, 2, KITCHEN, (0, 1, 2, 3, 4), 299.5),
        intra(2, 1, KITCHEN, (5, 6, 7, 0, 11), 600.0),  # the label says inter
        intra(1, 2, GARDEN, (8, 10, 8, 7, 11), 20.0),  # two texts coincide
        inter(4, 1, (3, 11, 1, 2, 6), 700.0),
        entry(0, 1, [clip(KITCHEN, 1, -0.4), *(clip(GARAGE, number, 9.0) for number in (2, 3, 4, 5))]),
        entry(1, 1, [clip(GARAGE, 2, 8.0), clip(KITCHEN, 6, 5.0, clip_end=4.0), *(clip(GARDEN, 0, 1.0),) * 3]),
    ]
    root.mkdir(parents=True, exist_ok=True)
    (root / "egomcq.json").write_text(json.dumps({str(number): value for number, value in enumerate(questions)}))
    (root / f"{KITCHEN}.mp4").mkdir()
    for start in (0, 300, 600):
        (root / f"{KITCHEN}.mp4" / f"{start}.mp4").touch()
