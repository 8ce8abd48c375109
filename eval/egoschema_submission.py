"""The two files in which EgoSchema takes answers: its labels, but for 500, are on a server.

`python -m eval.egoschema_submission FOLDER` reads an evaluation's output folder and writes
`egoschema_MODE.json` ({question id: option number}, for the validation server) and `egoschema_MODE.csv` (for the Kaggle
competition). Every question must have a number: one without an answer gets option 0, and they are counted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.predictions import read_asked, read_predictions
from exo2ego.command_line import run_safely
from exo2ego.console import console
from exo2ego.errors import EvaluationError
from exo2ego.records import AnswerMode
from exo2ego.storage import write_json, write_text

TASK = "egoschema"
NO_ANSWER = 0
NUM_QUESTIONS = 5031
"""What the server expects (Exo2Ego Table 2)."""


@dataclass(frozen=True)
class Submission:
    """What was written."""

    files: tuple[Path, Path]
    num_answers: int
    num_filled: int
    """Questions without an answer, given as option 0."""


def write_submission(folder: Path, mode: AnswerMode, out: Path | None = None) -> Submission:
    """Writes both files for one answer mode; raises `EvaluationError` when EgoSchema was not asked in it."""
    given = {row.question_id: row.predicted_index for row in read_predictions(folder) if row.mode == mode}
    asked = [name for name, question in read_asked(folder).items() if question.task == TASK]
    if not any(name in given for name in asked):
        raise EvaluationError(f"{folder}: has no answers to {TASK} in mode {mode}; run eval.egobench on it first")
    answers: dict[str, int] = {}
    num_filled = 0
    for name in asked:
        choice = given.get(name)
        num_filled += choice is None
        answers[name.removeprefix(f"{TASK}/")] = NO_ANSWER if choice is None else choice
    target = out or folder
    files = target / f"{TASK}_{mode}.json", target / f"{TASK}_{mode}.csv"
    write_json(files[0], answers)
    write_text(files[1], "".join(["q_uid,answer\n", *(f"{uid},{choice}\n" for uid, choice in answers.items())]))
    return Submission(files, len(answers), num_filled)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m eval.egoschema_submission`."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.egoschema_submission",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="output folder of `python -m eval.egobench`")
    parser.add_argument("--mode", choices=("likelihood", "letter", "generate"), default="likelihood")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: the folder itself)")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    arguments = parser.parse_args(argv)

    def act() -> None:
        written = write_submission(arguments.folder, arguments.mode, arguments.out)
        console.print(f"written: {written.files[0]} and {written.files[1]}", markup=False)
        console.print(
            f"{written.num_answers} answers ({NUM_QUESTIONS:,} in the whole set), {written.num_filled} of them option "
            f"{NO_ANSWER} because the model gave none",
            markup=False,
        )

    return run_safely(act, arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
