"""A made-up EPIC-KITCHENS-100 retrieval set in its real layout: wrong captions, equal actions, a 30 fps video."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

CLIPS = (
    # narration_id, start, stop, narration, verb class, noun classes
    ("P01_11_0", "00:00:00.00", "00:00:01.89", "take mozzarella", 0, [32]),
    ("P01_11_1", "00:00:01.56", "00:00:02.45", "grab mozzarella", 0, [32]),
    ("P01_11_2", "00:01:02.5", "00:01:03.25", "put down mozzarella", 1, [32]),
    ("P01_11_3", "00:01:10.00", "00:01:12.00", "cut mozzarella into salad bowl", 7, [32, 7]),
    ("P09_07_0", "01:00:00.00", "01:00:02.00", "cut mozzarella bag", 7, [19, 19]),
    ("P09_07_1", "00:00:03.00", "00:00:04.00", "stir", 10, [34]),
    ("P09_07_2", "00:00:05.00", "00:00:05.00", "stir", 10, [38]),
    ("P09_07_3", "00:00:06.00", "00:00:07.00", "count", 24, [44]),
)
SENTENCES = {clip[0]: clip[3] for clip in CLIPS[:6]} | {"P09_07_2": "count", "P09_07_3": "stir"}
"""The last two carry each other's text."""
TRAIN = (("P02_01_0", "slice mozzarella", 7, [32]), ("P02_01_1", "take more mozzarella", 0, [32]))


def _write(path: Path, header: str, rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header.split(","))
        writer.writerows(rows)


def write_ek100_mir(root: Path) -> None:
    """Writes eight clips of two videos, one clip without length; one video is a file, one a folder of frames."""
    folder = root / "retrieval_annotations"
    folder.mkdir(parents=True)
    _write(
        folder / "EPIC_100_retrieval_test.csv",
        "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,"
        "stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes",
        [
            (
                clip_id,
                clip_id[:3],
                clip_id[:6],
                "",
                start,
                stop,
                1,
                2,
                text,
                "verb",
                verb,
                "noun",
                nouns[0],
                "[]",
                nouns,
            )
            for clip_id, start, stop, text, verb, nouns in CLIPS
        ],
    )
    _write(folder / "EPIC_100_retrieval_test_sentence.csv", "narration_id,narration", list(SENTENCES.items()))
    _write(
        folder / "EPIC_100_retrieval_train_sentence.csv",
        "narration_id,narration,verb_class,noun_classes,verb,nouns",
        [(*row, "verb", "[]") for row in TRAIN],
    )
    _write(
        root / "EPIC_100_video_info.csv",
        "video_id,duration,fps,resolution",
        [("P01_11", 900.5, 59.9400599400599, "1920x1080"), ("P09_07", 4000, 29.97002997, "1920x1080")],
    )
    (root / "P01" / "videos").mkdir(parents=True)
    (root / "P01" / "videos" / "P01_11.MP4").touch()
    (root / "P09" / "rgb_frames" / "P09_07").mkdir(parents=True)
