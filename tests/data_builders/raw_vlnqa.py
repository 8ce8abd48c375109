"""A made-up VLN-QA in MVBench's layout: a question that is there twice, a candidate that is there twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def row(video: str, **changes: Any) -> dict[str, Any]:
    """Returns a row of egocentric_navigation.json."""
    return {
        "video": video,
        "question": 'This is a navigation video of an agent following instruction: "Go left." What is next?',
        "candidates": ["Stop", "Move forward", "Turn left and move forward", "Turn right and move forward"],
        "answer": "Turn left and move forward",
        **changes,
    }


def write_vlnqa(root: Path) -> None:
    """Writes four questions about three videos."""
    twice = ["Stop", "Move forward", "Turn left and move forward", "turn left and move forward."]
    rows = [row("a_1.mp4"), row("b_2.mp4", answer="Stop"), row("a_1.mp4"), row("c_3.mp4", candidates=twice)]
    (root / "json").mkdir(parents=True)
    (root / "video" / "vlnqa").mkdir(parents=True)
    for name in ("a_1", "b_2", "c_3"):
        (root / "video" / "vlnqa" / f"{name}.mp4").touch()
    (root / "json" / "egocentric_navigation.json").write_text(json.dumps(rows))
