"""A tiny Something-Something-V2 as downloaded: made-up rows in the real structure, traps included."""

from __future__ import annotations

import json
from pathlib import Path

CLASSES = [
    "Approaching something with your camera",
    "Holding something next to something",
    "Moving part of something",
    "Pretending to take something from somewhere",
    "Something falling like a feather or paper",
    "Stacking number of something",
    "Throwing something",
]
TRAIN = [
    {
        "id": "90000001",
        "label": "holding cup next to spoon",
        "template": "Holding [something] next to [something]",
        "placeholders": ["cup", "spoon"],
    },
    {
        "id": "90000002",
        "label": "paper falling like a feather or paper",
        "template": "[Something] falling like a feather or paper",
        "placeholders": ["paper"],
    },
    {
        "id": "90000003",
        "label": "moving the lid ofa jar ",
        "template": "Moving [part] of [something]",
        "placeholders": ["the lid", "a jar"],
    },
]
VALIDATION = [
    {
        "id": "90000010",
        "label": "pretending to take pen from desk",
        "template": "Pretending to take [something] from [somewhere]",
        "placeholders": ["pen", "desk"],
    }
]
TEST = [{"id": "1420"}, {"id": "50058"}]
TEST_ANSWERS = "1420;Throwing something\n50058;Stacking number of something\n"


def write_ssv2(root: Path, prefix: str = "labels/") -> None:
    """Writes the label files; `prefix` is `labels/` or, as in an older download, `something-something-v2-`."""
    (root / "labels").mkdir(parents=True)
    tables = {
        "labels": {name: str(number) for number, name in enumerate(CLASSES)},
        "train": TRAIN,
        "validation": VALIDATION,
        "test": TEST,
    }
    for name, value in tables.items():
        (root / f"{prefix}{name}.json").write_text(json.dumps(value))
    (root / f"{prefix}test-answers.csv").write_text(TEST_ANSWERS)
