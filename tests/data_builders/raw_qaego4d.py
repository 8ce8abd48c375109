"""A made-up QAEgo4D in its real layouts: GroundVQA's two files; the original's answers with Ego4D's nlq_val.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CLIP = "22222222-aaaa-bbbb-cccc-222222222222"
VIDEO = "33333333-aaaa-bbbb-cccc-333333333333"
ANNOTATION = "44444444-aaaa-bbbb-cccc-444444444444"


def row(number: int, **changes: Any) -> dict[str, Any]:
    """Returns a row of the closed file."""
    return {
        "video_uid": VIDEO,
        "video_start_sec": 812.3,
        "video_end_sec": 818.0,
        "video_start_frame": 24369,
        "video_end_frame": 24540,
        "video_id": CLIP,
        "sample_id": f"{ANNOTATION}_{number}",
        "question": f"Where did I put plate number {number}?",
        "answer": "on the table",
        "moment_start_frame": 4120.5,
        "moment_end_frame": 4290.0,
        "wrong_answers": ["right of the stove", "left of the sink", "in the drawer"],
        **changes,
    }


def write_qaego4d(root: Path) -> None:
    """Writes eight closed questions and ten open ones: a window without length, an empty answer, a repeated option."""
    closed = [row(number) for number in range(8)]
    closed[1] |= {"moment_end_frame": 4120.5}
    closed[2] |= {"wrong_answers": ["On the table.", "left of the sink", "in the drawer"]}
    closed[3] |= {"wrong_answers": ["", "left of the sink", "in the drawer"]}
    opened = [row(number) for number in range(10)]
    opened[9]["answer"] = " "
    for one in opened:
        del one["wrong_answers"]
    unified = root / "data" / "unified"
    unified.mkdir(parents=True)
    (unified / "annotations.QaEgo4D_test_close.json").write_text(json.dumps(closed))
    (unified / "annotations.QaEgo4D_test.json").write_text(json.dumps(opened))
    (root / "v1" / "clips").mkdir(parents=True)
    (root / "v1" / "clips" / f"{CLIP}.mp4").touch()


def write_original_qaego4d(root: Path) -> None:
    """Writes answers.json and nlq_val.json: an answer of val, one without its query, a query without a text."""
    queries: list[dict[str, Any]] = [
        {"query": "Where, did I\n put it?", "clip_start_sec": 1.5, "clip_end_sec": 2.5, "template": "t"},
        {"template": "t"},
        {"query": "Who was it?", "clip_start_sec": 5.0, "clip_end_sec": 5.0},
    ]
    clip = {"clip_uid": CLIP, "annotations": [{"annotation_uid": ANNOTATION, "language_queries": queries}]}
    nlq = {"version": "v1", "videos": [{"video_uid": VIDEO, "clips": [clip]}]}
    answers = {f"{ANNOTATION}_0": "in the, drawer", f"{ANNOTATION}_1": "no query", f"{ANNOTATION}_9": "gone"}
    root.mkdir(parents=True, exist_ok=True)
    (root / "answers.json").write_text(json.dumps({"train": {}, "val": {f"{ANNOTATION}_2": "of val"}, "test": answers}))
    (root / "nlq_val.json").write_text(json.dumps(nlq))
