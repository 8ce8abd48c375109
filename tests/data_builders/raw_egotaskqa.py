"""A made-up EgoTaskQA in its real layout: both protocols, `|` in video names, an interval without length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

OPEN_ANSWERS = ("open microwave", "close microwave", "point to microwave", "turn off microwave", "turn on microwave")


def row(question_id: int, answer: str, **changes: Any) -> dict[str, Any]:
    """Returns a row of `*_qas.json`."""
    binary = answer in ("yes", "no")
    return {
        "question": "If the person did not wash something, will he/she be able to cut it?"
        if binary
        else "What does the person want to do after looking at the other person?",
        "answer": answer,
        "program": "query([name], only(filter([action], all)))",
        "type": ["descriptive"],
        "category": ["world"],
        "semantic": "action",
        "structural": "verify" if binary else "query",
        "reference": "direct",
        "interval": "p1-1|P1|1200|1800",
        "video_id": 17,
        "question_id": question_id,
        "reasoning_type": f"descriptive$world$action${'verify' if binary else 'query'}$direct",
        **changes,
    }


def write_egotaskqa(root: Path) -> None:
    """Writes four questions in each test file, one of them about an interval without length; one video is there."""
    for protocol in ("direct", "indirect"):
        folder = root / "qa" / protocol
        folder.mkdir(parents=True)
        test = [
            row(1, "turn on microwave"),
            row(2, "yes", interval="p1-2|P2|0|600"),
            row(3, "point to the other person", interval="p1-1|P1|1800|1800"),
            row(5, "no", reference="indirect"),
        ]
        train = [row(100 + number, answer) for number, answer in enumerate((*OPEN_ANSWERS, "no"))]
        val = [row(200, "Close microwave."), row(201, "wash the pan")]
        for split, rows in (("train", train), ("val", val), ("test", test)):
            (folder / f"{split}_qas.json").write_text(json.dumps(rows))
        (folder / "answer_set.txt").write_text("<UNK0>\n<UNK1>\nno\nyes\n" + "\n".join(OPEN_ANSWERS) + "\n")
    (root / "qa_videos").mkdir()
    (root / "qa_videos" / "p1-1|P1|1200|1800.mp4").touch()
