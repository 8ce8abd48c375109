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

from eval.metrics.graded_retrieval import RetrievalScores, score_retrieval
from eval.retrieval.ek100_test_set import NarrationRow, read_test_set
from eval.score_matrices import read_matrix, show_json
from exo2ego.action_relevancy import ActionClass, relevancy_matrix
from exo2ego.command_line import run_safely
from exo2ego.console import console
from exo2ego.errors import EvaluationError
from exo2ego.raw.rows import PythonList

NounClasses = Annotated[list[int], PythonList, Field(min_length=1)]


class VideoRow(NarrationRow):
    """A row of EPIC_100_retrieval_test.csv: one clip and the class of its action."""

    verb_class: int
    noun_classes: NounClasses = Field(validation_alias="all_noun_classes")

    @property
    def action(self) -> ActionClass:
        """Returns the class of the action."""
        return ActionClass(self.verb_class, frozenset(self.noun_classes))


def read_actions(videos: Path, sentences: Path) -> tuple[list[ActionClass], list[ActionClass]]:
    """Returns the class of every clip and of every caption, each in the order of its file; raises `DataError`."""
    clips, captions = read_test_set(videos, sentences, VideoRow)
    return [clip.action for clip in clips], [clip.action for clip in captions]


def evaluate(videos: Path, sentences: Path, similarity: Path) -> dict[str, RetrievalScores]:
    """Returns the scores of video to text (`V2T`) and of text to video (`T2V`)."""
    clips, captions = read_actions(videos, sentences)
    similarities = read_matrix(similarity, (len(clips), len(captions)), "a row per clip and a column per caption")
    relevancy = relevancy_matrix(clips, captions)
    try:
        return {"V2T": score_retrieval(similarities, relevancy), "T2V": score_retrieval(similarities.T, relevancy.T)}
    except EvaluationError as error:
        raise EvaluationError(f"{similarity}: {error}") from error


def as_numbers(scores: dict[str, RetrievalScores]) -> dict[str, float | int]:
    """Returns every measure by name, in fractions; `avg` is the mean of the directions, as the challenge reports it."""
    numbers: dict[str, float | int] = {}
    for direction, row in scores.items():
        numbers[f"mAP_{direction}"] = row.mean_average_precision
        numbers[f"nDCG_{direction}"] = row.ndcg
        numbers[f"binary_mAP_{direction}"] = row.binary_mean_average_precision
    for name in ("mAP", "nDCG", "binary_mAP"):
        numbers[f"{name}_avg"] = (numbers[f"{name}_V2T"] + numbers[f"{name}_T2V"]) / 2
    return numbers | {
        "num_videos": scores["V2T"].num_queries,
        "num_captions": scores["T2V"].num_queries,
        "num_videos_without_target": scores["V2T"].num_without_target,
        "num_captions_without_target": scores["T2V"].num_without_target,
        "num_videos_with_ties": scores["V2T"].num_with_ties,
        "num_captions_with_ties": scores["T2V"].num_with_ties,
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
        ties = numbers["num_videos_with_ties"], numbers["num_captions_with_ties"]
        if any(ties):
            console.print(
                f"{ties[0]} videos and {ties[1]} captions have equal similarities; the official code takes any of them "
                "first: its numbers can differ"
            )
        return 0

    return run_safely(act, arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
