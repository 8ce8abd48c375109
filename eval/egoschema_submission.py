"""The two files in which EgoSchema takes answers: its labels, but for 500, are on a server.

`python -m eval.egoschema_submission FOLDER` reads an evaluation's output folder and writes
`egoschema_MODE.json` ({question id: option number}, for the validation server) and `egoschema_MODE.csv` (for the Kaggle
competition). Every question must have a number: one whose answer names no option, or whose video cannot be read, gets
option 0; both are counted. A run that is not finished is refused, since its missing answers would be zeros.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.reporting.run_folder import read_run
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
    """What was written; the questions without an option's number are given as option 0."""

    files: tuple[Path, Path]
    num_answers: int
    num_unparsed: int
    """Answers that name no single option."""
    num_failed: int
    """Questions whose video cannot be read, or at which the model failed."""
    num_unanswered: int
    """Questions that the run has not reached."""


def write_submission(
    folder: Path, mode: AnswerMode, out: Path | None = None, *, allow_unfinished: bool = False
) -> Submission:
    """Writes both files for one answer mode.

    Raises `EvaluationError` when EgoSchema was not asked in it, or not all of it was and `allow_unfinished` is not set.
    """
    run = read_run(folder)
    given = {row.question_id: row.predicted_index for row in run.predictions if row.mode == mode}
    asked = [name for name, question in run.questions.items() if question.task == TASK]
    if not any(name in given for name in asked):
        modes = sorted({row.mode for row in run.predictions if row.question_id in asked})
        advice = f"give --mode {modes[0]}" if modes else "run eval.egobench on it first"
        raise EvaluationError(f"{folder}: has no answers to {TASK} in mode {mode}; {advice}")
    failed = {row.question_id for row in run.failures if row.mode == mode}
    num_failed = sum(name in failed for name in asked)
    num_unanswered = sum(name not in given for name in asked) - num_failed
    if num_unanswered and not allow_unfinished:
        raise EvaluationError(
            f"{folder}: {num_unanswered} of {len(asked)} questions are not answered yet; run the same eval.egobench "
            f"command again, or give --unfinished to write option {NO_ANSWER} for them"
        )
    choices = {name.removeprefix(f"{TASK}/"): given.get(name) for name in asked}
    answers = {name: NO_ANSWER if choice is None else choice for name, choice in choices.items()}
    target = out or folder
    files = target / f"{TASK}_{mode}.json", target / f"{TASK}_{mode}.csv"
    write_json(files[0], answers)
    write_text(files[1], "".join(["q_uid,answer\n", *(f"{name},{choice}\n" for name, choice in answers.items())]))
    num_unparsed = sum(name in given and given[name] is None for name in asked)
    return Submission(files, len(answers), num_unparsed, num_failed, num_unanswered)


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
    parser.add_argument("--unfinished", action="store_true", help="also write the answers of a run that was stopped")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    arguments = parser.parse_args(argv)

    def act() -> None:
        written = write_submission(
            arguments.folder, arguments.mode, arguments.out, allow_unfinished=arguments.unfinished
        )
        console.print(f"written: {written.files[0]} and {written.files[1]}", markup=False)
        console.print(
            f"{written.num_answers} answers ({NUM_QUESTIONS:,} in the whole set); option {NO_ANSWER} stands for "
            f"{written.num_unparsed} that name no option, {written.num_failed} that failed and "
            f"{written.num_unanswered} not answered yet",
            markup=False,
        )

    return run_safely(act, arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
