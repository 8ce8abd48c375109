"""A tiny EgoTimeQA as downloaded: made-up rows in the real structure, traps included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CLIP = "00000014-1111-4111-8111-111111111111"
OTHER_CLIP = "00000015-1111-4111-8111-111111111111"


def question(number: int = 0, **changes: Any) -> dict[str, Any]:
    """Returns a row with the given changes; `sample_id` is the clip, as in the file."""
    row = {
        "video_id": CLIP,
        "answer": f"gave it to Person {number}",
        "question": f"What did I do with cup {number}?",
        "moment_start_frame": 3601.5 + number,
        "moment_end_frame": 3857.25 + number,
        "wrong_answers": ["drank it myself", "left it on the table", "spilled it on the floor"],
    } | changes
    return {"sample_id": row["video_id"], **row}


ROWS = [
    question(0),
    question(1),
    question(2, question="Did l wash the knife?", answer="yes", wrong_answers=["no", "maybe", "not sure"]),
    question(3, video_id=OTHER_CLIP, question="How many eggs did I crack?", answer="2", wrong_answers=[1, 3, 4]),
    question(4, video_id=OTHER_CLIP, moment_start_frame=-3.0, moment_end_frame=30.0),
    question(5, video_id=OTHER_CLIP, wrong_answers=["Gave it to Person 5.", "no", "yes"]),
    question(6, answer=" "),
    question(7, moment_start_frame=90.0, moment_end_frame=60.0),
]


def write_egotimeqa(root: Path) -> None:
    """Writes `data/unified/annotations.EgoTimeQA.json`; the clips are absent."""
    folder = root / "data" / "unified"
    folder.mkdir(parents=True)
    (folder / "annotations.EgoTimeQA.json").write_text(json.dumps(ROWS))
