"""The two CSV files of EPIC-KITCHENS-100's retrieval test set: its clips, and the captions to find them by."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from exo2ego.errors import DataError
from exo2ego.raw.files import RawFiles
from exo2ego.raw.rows import FileStem, RawRow


class NarrationRow(RawRow):
    """What both files have of a row; its text in the sentence file is not used: the last seven carry a wrong one."""

    narration_id: FileStem


ClipType = TypeVar("ClipType", bound=NarrationRow)


def read_test_set(videos: Path, sentences: Path, clip_type: type[ClipType]) -> tuple[list[ClipType], list[ClipType]]:
    """Returns the clips of EPIC_100_retrieval_test.csv, and for every caption the clip that it was written for.

    Captions are in the order of EPIC_100_retrieval_test_sentence.csv. Raises `DataError`.
    """
    clips = _by_narration(videos, clip_type, "EPIC-KITCHENS-100 retrieval test file")
    captions = []
    for name, (where, _) in _by_narration(sentences, NarrationRow, "EPIC-KITCHENS-100 test sentence file").items():
        if name not in clips:
            raise DataError(f"{where}: {name} is not in {videos}; are both of one version?")
        captions.append(clips[name][1])
    return [clip for _, clip in clips.values()], captions


def _by_narration(path: Path, row_type: type[ClipType], what: str) -> dict[str, tuple[str, ClipType]]:
    """Returns the place and the row of every narration."""
    rows: dict[str, tuple[str, ClipType]] = {}
    for where, row in RawFiles(path.parent, what).csv_rows(path, row_type, what):
        if row.narration_id in rows:
            raise DataError(f"{where}: narration_id {row.narration_id} is given twice")
        rows[row.narration_id] = where, row
    if not rows:
        raise DataError(f"{path}: no rows")
    return rows
