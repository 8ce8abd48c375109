"""The official video-level mAP of Charades and Charades-Ego, for any model's scores.

The mean over classes of the average precision over videos. The official mean is not a number as soon as one class has
no video; here such classes are left out and counted.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray
from pydantic import Field

from eval.metrics.class_average_precision import score_classes
from eval.score_matrices import read_matrix, show_json
from exo2ego.command_line import run_safely
from exo2ego.console import console
from exo2ego.errors import DataError, EvaluationError
from exo2ego.raw.files import RawFiles
from exo2ego.raw.rows import FileStem, OptionalText, RawRow

_CLASS = re.compile(r"(c\d{3})\s+\S.*")


class VideoRow(RawRow):
    """A row of the annotations: one video."""

    video: FileStem = Field(validation_alias="id")
    actions: OptionalText
    """`class start end;…`; may be empty."""


def read_class_ids(path: Path) -> list[str]:
    """Returns the ids of Charades_v1_classes.txt in its order (`c000` … `c156`); raises `DataError`."""
    ids = []
    for where, line in RawFiles(path.parent, "Charades").lines(path, "Charades classes"):
        if not line.strip():
            continue
        parts = _CLASS.fullmatch(line.strip())
        if parts is None or parts[1] in ids:
            raise DataError(f"{where}: expected a new class id and its text as in `c000 Holding some clothes`")
        ids.append(parts[1])
    if not ids:
        raise DataError(f"{path}: no classes")
    return ids


def read_truth(annotations: Path, class_ids: Sequence[str]) -> NDArray[numpy.uint8]:
    """Returns which classes happen in which video, [videos, classes], in the order of the files; raises `DataError`."""
    column_of = {name: number for number, name in enumerate(class_ids)}
    rows: list[NDArray[numpy.uint8]] = []
    seen: set[str] = set()
    for where, row in RawFiles(annotations.parent, "Charades").csv_rows(annotations, VideoRow, "Charades annotations"):
        if row.video in seen:
            raise DataError(f"{where}: video {row.video} is given twice")
        seen.add(row.video)
        named = [action.split()[0] for action in row.actions.split(";") if action.strip()]
        unknown = sorted({name for name in named if name not in column_of})
        if unknown:
            raise DataError(f"{where}: class {unknown[0][:20]!a} is not in the list of classes")
        rows.append(numpy.zeros(len(class_ids), dtype=numpy.uint8))
        rows[-1][[column_of[name] for name in named]] = 1
    if not rows:
        raise DataError(f"{annotations}: no videos")
    return numpy.stack(rows)


def evaluate(annotations: Path, classes: Path, scores: Path) -> dict[str, Any]:
    """Returns the measures by name, in fractions."""
    class_ids = read_class_ids(classes)
    truth = read_truth(annotations, class_ids)
    matrix = read_matrix(scores, (len(truth), len(class_ids)), "a row per video and a column per class")
    try:
        result = score_classes(truth, matrix)
    except EvaluationError as error:
        raise EvaluationError(f"{scores}: {error}") from error
    absent = int(numpy.isnan(result.per_class).sum())
    return {
        "mAP": result.mean,
        "wAP": result.weighted_mean,
        "num_videos": len(truth),
        "num_videos_without_class": result.num_unlabelled_videos,
        "num_classes": len(class_ids),
        "num_classes_without_video": absent,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and prints the metrics."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.charades", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--annotations", type=Path, required=True, metavar="CSV", help="for example CharadesEgo_v1_test_only1st.csv"
    )
    parser.add_argument("--classes", type=Path, required=True, metavar="TXT", help="Charades_v1_classes.txt")
    parser.add_argument(
        "--scores", type=Path, required=True, metavar="NPY", help="array [videos, classes] in the files' order"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, fractions")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    arguments = parser.parse_args(argv)

    def act() -> int:
        numbers = evaluate(arguments.annotations, arguments.classes, arguments.scores)
        if arguments.json:
            show_json(numbers)
            return 0
        console.print(
            f"mAP {100 * numbers['mAP']:.2f} % over {numbers['num_classes'] - numbers['num_classes_without_video']} "
            f"classes and {numbers['num_videos']} videos; {numbers['num_classes_without_video']} classes have no video"
        )
        return 0

    return run_safely(act, arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
