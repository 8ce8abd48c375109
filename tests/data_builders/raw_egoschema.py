"""A made-up EgoSchema in its real layout: a public label, hidden ones, the places in Ego4D."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

UIDS = [f"0000000{number}-aaaa-bbbb-cccc-00000000000{number}" for number in range(4)]
EGO4D = "11111111-aaaa-bbbb-cccc-111111111111"


def question(uid: str, text: str = "What does c do,  overall?") -> dict[str, Any]:
    """Returns a row of questions.json."""
    options = {f"option {number}": f"C mixes bowl number {number}." for number in range(5)}
    return {"q_uid": uid, "google_drive_id": "x", "question": text, **options}


def write_egoschema(root: Path) -> None:
    """Writes four questions, two of them with a public label; the last has two options of the same text."""
    rows = [question(uid) for uid in UIDS]
    rows[3]["option 4"] = " c mixes bowl number 1"
    places = {
        uid: {"video_uid": EGO4D, "starting_sec": 180 * number, "ending_sec": 180 * number + 180}
        for number, uid in enumerate(UIDS)
    }
    (root / "videos").mkdir(parents=True)
    for uid in UIDS[:3]:
        (root / "videos" / f"{uid}.mp4").touch()
    (root / "questions.json").write_text(json.dumps(rows))
    (root / "subset_answers.json").write_text(json.dumps({UIDS[0]: 2, UIDS[3]: 1}))
    (root / "uid_to_ego4d.json").write_text(json.dumps(places))
