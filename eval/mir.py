"""The official EPIC-KITCHENS-100 multi-instance retrieval metrics, for any model's similarities.

mAP and nDCG in both directions over the full gallery, with relevancy made from the two CSV files of the test set. These
numbers are not comparable with those of five-option questions about the same clips (docs/evaluation.md).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field
from rich.table import Table

from eval.graded_retrieval import RetrievalScores, score_retrieval
from eval.matrices import read_matrix, show_json
from exo2ego.action_relevancy import ActionClass, relevancy_matrix
from exo2ego.command_line import run_safely
from exo2ego.console import console
from exo2ego.errors import DataError
from exo2ego.raw.files import RawFiles
from exo2ego.raw.rows import FileStem, PythonList, RawRow

NounClasses = Annotated[list[int], PythonList, Field(min_length=1)]


class VideoRow(RawRow):
    """A row of EPIC_100_retrieval_test.csv: one clip and the class of its action."""

    narration_id: FileStem
    verb_class: int
    noun_classes: NounClasses = Field(validation_alias="all_noun_classes")


class SentenceRow(RawRow):
    """A row of EPIC_100_retrieval_test_sentence.csv; its text is not used: the last seven rows carry a wrong one."""

    narration_id: FileStem


def read_actions(videos: Path, sentences: Path) -> tuple[list[ActionClass], list[ActionClass]]:
    """Returns the class of every clip and of every caption, each in the order of its file.

    A caption has the class of the clip that it was written for. Raises `DataError`.
    """
    of_clip: dict[str, ActionClass] = {}
    what = "EPIC-KITCHENS-100 retrieval test file"
    for where, row in RawFiles(videos.parent, what).csv_rows(videos, VideoRow, what):
        if row.narration_id in of_clip:
            raise DataError(f"{where}: narration_id {row.narration_id} is given twice")
        of_clip[row.narration_id] = ActionClass(row.verb_class, frozenset(row.noun_classes))
    captions = []
    what = "EPIC-KITCHENS-100 test sentence file"
    for where, sentence in RawFiles(sentences.parent, what).csv_rows(sentences, SentenceRow, what):
        if sentence.narration_id not in of_clip:
            raise DataError(f"{where}: {sentence.narration_id} is not in {videos}; are both of one version?")
        captions.append(of_clip[sentence.narration_id])
    if not of_clip or not captions:
        raise DataError(f"{sentences if of_clip else videos}: no rows")
    return list(of_clip.values()), captions


def evaluate(videos: Path, sentences: Path, similarity: Path) -> dict[str, RetrievalScores]:
    """Returns the scores of video to text (`V2T`) and of text to video (`T2V`)."""
    clips, captions = read_actions(videos, sentences)
    similarities = read_matrix(similarity, (len(clips), len(captions)), "a row per clip and a column per caption")
    relevancy = relevancy_matrix(clips, captions)
    return {"V2T": score_retrieval(similarities, relevancy), "T2V": score_retrieval(similarities.T, relevancy.T)}


def as_numbers(scores: dict[str, RetrievalScores]) -> dict[str, float | int]:
    """Returns every measure by name, in fractions; `avg` is the mean of the directions, as the challenge reports it."""
    numbers: dict[str, float | int] = {}
    measures = {"mAP": "mean_average_precision", "nDCG": "ndcg", "binary_mAP": "binary_mean_average_precision"}
    for name, attribute in measures.items():
        values = {direction: getattr(row, attribute) for direction, row in scores.items()}
        numbers |= {f"{name}_{direction}": value for direction, value in values.items()}
        numbers[f"{name}_avg"] = sum(values.values()) / len(values)
    return numbers | {
        "num_videos": scores["V2T"].num_queries,
        "num_captions": scores["T2V"].num_queries,
        "num_videos_without_target": scores["V2T"].num_without_target,
        "num_captions_without_target": scores["T2V"].num_without_target,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and prints the metrics."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.mir", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=Path, required=True, metavar="CSV", help="EPIC_100_retrieval_test.csv")
    parser.add_argument(
        "--sentences", type=Path, required=True, metavar="CSV", help="EPIC_100_retrieval_test_sentence.csv"
    )
    parser.add_argument(
        "--similarity", type=Path, required=True, metavar="NPY", help="array [clips, captions] in the files' order"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, fractions")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    arguments = parser.parse_args(argv)

    def act() -> int:
        numbers = as_numbers(evaluate(arguments.videos, arguments.sentences, arguments.similarity))
        if arguments.json:
            show_json(numbers)
            return 0
        table = Table("percent", "video to text", "text to video", "mean")
        for name, title in (("mAP", "mAP"), ("nDCG", "nDCG"), ("binary_mAP", "mAP, binary (not official)")):
            table.add_row(title, *(f"{100 * numbers[f'{name}_{column}']:.2f}" for column in ("V2T", "T2V", "avg")))
        console.print(table)
        return 0

    return run_safely(act, arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
