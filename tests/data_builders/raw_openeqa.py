"""A tiny OpenEQA as downloaded: made-up rows in the real structure, traps included."""

from __future__ import annotations

import json
from pathlib import Path

HM3D, SCANNET = "hm3d-v0/900-hm3d-AAAAAAAAAAA", "scannet-v0/901-scannet-scene9999_00"
ROWS = [
    {
        "question": "is the door open or closed?",
        "answer": "open",
        "category": "attribute recognition",
        "question_id": "00000000-0000-4000-8000-000000000001",
        "episode_history": HM3D,
    },
    {
        "question": "Is the door open or closed?",  # a second time
        "answer": "open",
        "category": "object state recognition",
        "question_id": "00000000-0000-4000-8000-000000000002",
        "episode_history": HM3D,
    },
    {
        "question": "Where is the clock? ",
        "answer": "On the wall",
        "category": "object localization",
        "question_id": "00000000-0000-4000-8000-000000000003",
        "episode_history": SCANNET,
        "extra_answers": ["on the wall.", "Above the desk", "above the desk", "near the window "],
    },
]


def write_openeqa(root: Path) -> None:
    """Writes `data/open-eqa-v0.json` and the frames of one episode, with depth maps and poses among them."""
    frames = root / "data" / "frames" / SCANNET
    frames.mkdir(parents=True)
    for name in ("000000-rgb.png", "000000-depth.png", "000000.txt", "intrinsic_color.txt"):
        (frames / name).touch()
    (root / "data" / "open-eqa-v0.json").write_text(json.dumps(ROWS, indent=2))
