"""Makes an evaluation's output folder of answers that another framework collected, so that our reports read them.

`python -m eval.import_answers FILE… --questions DIR --out DIR --model NAME` takes lmms-eval's logs of our tasks
(`*_samples_egobench*.jsonl`, of `--log_samples`) and tables with the columns `id` and `prediction`, which VLMEvalKit
writes for the data sets of `python -m eval.export_vlmevalkit` (.tsv, .csv; .xlsx needs openpyxl). Generated text is
read by the strict rules of `eval/parsing.py`. Then `python -m eval.report DIR`, `eval.compare` and `eval.judge` go on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import exo2ego
from eval.failures import Failure
from eval.parsing import parse_choice
from eval.predictions import PredictionStore
from eval.questions import DataOptions, question_files, read_questions
from exo2ego.command_line import run_safely
from exo2ego.console import console
from exo2ego.errors import DataError, EvaluationError
from exo2ego.provenance import provenance
from exo2ego.records import Prediction, Question
from exo2ego.storage import hash_file, hash_text, read_jsonl

NO_ANSWER = "Failed to obtain answer"
"""How VLMEvalKit's text begins where a model's service failed."""
LOGGED_UNDER = ("printed", "exact_match")
"""The measures in whose rows lmms-eval's log holds the prediction: of questions with options, and of open ones."""


def read_answers(path: Path, questions: Mapping[str, Question]) -> Iterator[Prediction | Failure]:
    """Yields the answers in a file, and what failed.

    Raises `DataError` for what is neither, `EvaluationError` for an answer to an unknown question.
    """
    rows = read_jsonl(path, "log of samples") if path.suffix == ".jsonl" else _table(path)
    for number, row in enumerate(rows, 1):
        where = f"{path}: answer {number}"
        try:
            logged = _logged(row)
            name = str(row["id"]) if logged is None else logged.question_id
            output = "" if logged is not None else str(row["prediction"])
        except (KeyError, TypeError, ValidationError) as error:
            raise DataError(
                f"{where} is neither a sample of the egobench tasks of lmms-eval nor has it `id` and `prediction`"
            ) from error
        if name not in questions:
            raise EvaluationError(f"{where} is to question {name}, which is not in the question files; give its table")
        yield _generated(questions[name], output) if logged is None else logged


def _logged(row: Mapping[str, Any]) -> Prediction | Failure | None:
    """Returns what lmms-eval's log of our tasks holds of an answer; None for a row of another kind."""
    logged = next((row[name] for name in LOGGED_UNDER if name in row), None)
    if logged is None:
        return None
    return Failure(**logged["failure"]) if "failure" in logged else Prediction.model_validate(logged["prediction"])


def _table(path: Path) -> Iterator[dict[str, Any]]:
    import pandas  # type: ignore[import-untyped]

    try:
        if path.suffix == ".xlsx":
            table = pandas.read_excel(path, keep_default_na=False, dtype=str)
        else:
            separator = "\t" if path.suffix == ".tsv" else ","
            table = pandas.read_csv(path, sep=separator, keep_default_na=False, dtype=str)
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{path}: cannot be read as a table (.jsonl, .tsv, .csv or .xlsx): {error}") from error
    yield from table.to_dict("records")


def _generated(question: Question, output: str) -> Prediction | Failure:
    asked: dict[str, Any] = {"id": question.question_id, "task": question.task, "video": question.video}
    if output.startswith(NO_ANSWER):
        return Failure(mode="generate", reason="endpoint", detail=output, **asked)
    return Prediction(
        **asked,
        mode="generate",
        prompt_hash=hash_text(question.question),  # the framework renders the prompt
        raw_output=output,
        predicted_index=parse_choice(output, question.options).index if question.options else None,
        answer_index=question.answer_index,
        num_options=len(question.options),
        seconds=0.0,
    )


def import_answers(files: Sequence[Path], question_paths: Sequence[Path], out: Path, model: str) -> int:
    """Writes the folder and returns the number of answers; the questions of the answered tables count as asked."""
    tables = question_files(DataOptions(root=Path(), questions=list(question_paths)), None)
    questions = {question.question_id: question for question in read_questions(tables)}
    answers = [answer for path in files for answer in read_answers(path, questions)]
    if len({(answer.question_id, answer.mode) for answer in answers}) < len(answers):
        raise EvaluationError("questions are answered twice in these files; import those of one run alone")
    tasks = {answer.task for answer in answers}
    inputs = {str(path): hash_file(path) for path in (*files, *tables)}
    key = {"exo2ego": exo2ego.__version__, "model": model, "imported": sorted(hash_file(path) for path in files)}
    asked = [question for question in questions.values() if question.task in tasks]
    with PredictionStore(out, key, provenance({"model": model}, None, inputs), asked) as store:
        for answer in answers:
            if isinstance(answer, Failure):
                store.fail(answer)
            elif (answer.question_id, answer.mode) not in store.done:
                store.add(answer)
    return len(answers)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m eval.import_answers`."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.import_answers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="logs of lmms-eval or tables of answers")
    parser.add_argument("--questions", nargs="+", type=Path, required=True, help="question files, or folders of them")
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument("--model", required=True, help="name of the model, for the report")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    arguments = parser.parse_args(argv)

    def act() -> None:
        number = import_answers(arguments.files, arguments.questions, arguments.out, arguments.model)
        console.print(f"{arguments.out}: {number} answers; python -m eval.report {arguments.out}", markup=False)

    return run_safely(act, arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
