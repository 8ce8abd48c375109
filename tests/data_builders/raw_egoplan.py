"""A made-up EgoPlan-Val in its real layout: both sources of video, an empty list of actions, a repeated choice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

EGO4D = "55555555-aaaa-bbbb-cccc-555555555555"


def row(sample_id: int, **changes: Any) -> dict[str, Any]:
    """Returns a row of EgoPlan_validation.json about P01_13."""
    return {
        "sample_id": sample_id,
        "video_source": "EpicKitchens",
        "video_id": "P01_13",
        "task_goal": "store flour",
        "question": "What action should I take next in order to store flour?",
        "choice_a": "take bag",
        "choice_b": "open cupboard",
        "choice_c": "put bag into cupboard",
        "choice_d": "close cupboard",
        "golden_choice_idx": "B",
        "answer": "open cupboard",
        "current_observation_frame": 600,
        "task_progress_metadata": [
            {"narration_text": "fold bag", "start_frame": 60, "stop_frame": 120},
            {"narration_text": "take bag", "start_frame": 240, "stop_frame": 480},
        ],
        **changes,
    }


def write_egoplan(root: Path) -> None:
    """Writes six questions; one's golden choice is not its answer."""
    rows = [
        row(115),
        row(7, video_source="Ego4D", video_id=EGO4D),
        row(8, task_progress_metadata=[]),
        row(9, choice_c="Open cupboard."),
        row(10, golden_choice_idx="A"),
        row(11, video_id="P01_101"),
    ]
    (root / "P01" / "videos").mkdir(parents=True)
    (root / "P01" / "rgb_frames" / "P01_101").mkdir(parents=True)
    (root / "v1_288p").mkdir()
    (root / "P01" / "videos" / "P01_13.MP4").touch()
    (root / "v1_288p" / f"{EGO4D}.mp4").touch()
    (root / "EgoPlan_validation.json").write_text(json.dumps(rows))
