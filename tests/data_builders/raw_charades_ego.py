"""A made-up Charades-Ego in its real layout: trailing spaces, actions past the end, none at all, third-person rows."""

from __future__ import annotations

import csv
from pathlib import Path

CLASSES = (
    "Holding some clothes",
    "Lying on a bed ",
    "Lying on a sofa/couch",
    "Lying on the floor",
    "Sitting in a bed",
    "Sitting on a table",
    "Someone is awakening in bed",
    "Someone is eating something",
)
COLUMNS = (
    "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length,egocentric,charades_video"
)
VIDEOS = {
    "AAAA1EGO": ("c001 2.00 12.50;c006 3.0 5.0;c001 20.0 24.0", "30.5", "Yes"),
    "BBBB2EGO": ("c007 4.0 40.0;c000 0.00 0.30", "20.25", "Yes"),
    "CCCC3EGO": ("", "31.0", "Yes"),
    "DDDD4": ("c003 1.0 9.0", "31.0", "No"),
    "EEEE5EGO": ("c002 1.0 1.5;c004 33.0 35.0", "31.0", ""),
}


def write_charades_ego(root: Path) -> None:
    """Writes five videos, of which three give a question; one video file is there."""
    (root / "CharadesEgo_v1_480").mkdir(parents=True)
    (root / "CharadesEgo_v1_480" / "AAAA1EGO.mp4").touch()
    # The real list has no line break after its last class.
    lines = [f"c{number:03d} {text}" for number, text in enumerate(CLASSES)]
    (root / "Charades_v1_classes.txt").write_text("\n".join(lines))
    with (root / "CharadesEgo_v1_test_only1st.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS.split(","), restval="")
        writer.writeheader()
        for video, (actions, length, egocentric) in VIDEOS.items():
            writer.writerow(
                {
                    "id": video,
                    "script": 'A person wakes up, says "hi",\nand eats.',
                    "objects": "bed;clothes",
                    "actions": actions,
                    "length": length,
                    "egocentric": egocentric,
                }
            )
