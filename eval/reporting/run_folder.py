"""The output folder of an evaluation as it is found: complete, unfinished, cut off, or without its run.json."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

import exo2ego
from eval.failures import Failure
from eval.predictions import FAILURES_FILE, PREDICTIONS_FILE, RUN_FILE, read_asked
from exo2ego.console import console
from exo2ego.errors import DataError, EvaluationError
from exo2ego.records import AnswerMode, Prediction, Question
from exo2ego.storage import read_json

PREFERRED: tuple[AnswerMode, ...] = ("likelihood", "letter", "generate")
"""The order of the answer modes; where one stands for a run, the first of these that it has."""
AnswerType = TypeVar("AnswerType", Prediction, Failure)


@dataclass(frozen=True)
class RunFolder:
    """What one folder holds, checked."""

    path: Path
    description: dict[str, Any]
    """The content of run.json; empty where there is none."""
    questions: dict[str, Question]
    """By id; empty for a folder that was written without them."""
    predictions: list[Prediction]
    """Of questions that were asked, sorted by id and mode."""
    failures: list[Failure]
    """Of questions that were asked and have no prediction in this mode."""
    num_cut: int
    """Files whose last line is half written; the line is left out."""
    num_strangers: int
    """Predictions for questions that are not in questions.jsonl; they are left out."""

    @property
    def key(self) -> dict[str, Any]:
        """Returns what must be equal for two runs' predictions to belong together."""
        return self.description.get("key", {})

    @property
    def config(self) -> dict[str, Any]:
        """Returns the configuration that the run was started with."""
        return self.description.get("provenance", {}).get("config", {})

    def setting(self, name: str, default: Any = None) -> Any:
        """Returns a value of the run's key, or else of its configuration."""
        return self.key.get(name, self.config.get(name, default))


def read_run(folder: Path) -> RunFolder:
    """Reads a folder; a half-written last line and predictions for unknown questions are counted and left out.

    The parts of several processes that were not yet put together are read as well. Raises `DataError` for any other
    damage and for a question answered twice, `EvaluationError` for a prediction that does not fit its question or holds
    scores that are not finite.
    """
    if not (folder / PREDICTIONS_FILE).exists():
        raise DataError(f"{folder}: holds no {PREDICTIONS_FILE}; give the output folder of `python -m eval.egobench`")
    questions = read_asked(folder)
    predictions, num_cut = _read_parts(folder, PREDICTIONS_FILE, Prediction)
    failures, num_cut_failures = _read_parts(folder, FAILURES_FILE, Failure)
    answered = {(row.question_id, row.mode) for row in predictions}
    known = [row for row in predictions if not questions or row.question_id in questions]
    for row in known:
        _require_fits(row, questions.get(row.question_id), folder)
    return RunFolder(
        path=folder,
        description=read_json(folder / RUN_FILE, "description of the run") if (folder / RUN_FILE).exists() else {},
        questions=questions,
        predictions=sorted(known, key=lambda row: (row.question_id, row.mode)),
        failures=[
            row
            for row in failures
            if (row.question_id, row.mode) not in answered and (not questions or row.question_id in questions)
        ],
        num_cut=num_cut + num_cut_failures,
        num_strangers=len(predictions) - len(known),
    )


def answered_openly(folder: Path) -> list[tuple[str, str, str]]:
    """Returns (question id, true answer, given answer) of the open questions with a known answer, sorted by id.

    Of an unfinished run those that are there, also in the parts of several processes; how many are not is said.
    """
    run = read_run(folder)
    known = {name for name, question in run.questions.items() if not question.options and question.answer_text}
    answered = [row for row in run.predictions if row.num_options == 0 and row.question_id in known]
    if 0 < len(answered) < len(known):
        console.print(
            f"{folder}: {len(known) - len(answered)} of {len(known)} open questions have no answer; the others count",
            markup=False,
        )
    texts = {name: run.questions[name].answer_text or "" for name in known}
    return sorted((row.question_id, texts[row.question_id], row.raw_output or "") for row in answered)


def _read_parts(folder: Path, name: str, record: type[AnswerType]) -> tuple[list[AnswerType], int]:
    """Reads a file and the parts that several processes have left; what stands in two files is taken once."""
    parts: list[Path] = sorted(folder.glob(f"{name}.part-*"), key=lambda part: int(part.name.rpartition("-")[2]))
    found: dict[tuple[str, str], AnswerType] = {}
    num_cut = 0
    for path in (folder / name, *parts):
        if not path.exists():
            continue
        rows, is_cut = _read_rows(path, record)
        num_cut += is_cut
        if len({(row.question_id, row.mode) for row in rows}) < len(rows):
            raise DataError(f"{path}: a question has two predictions; two runs wrote into this folder")
        found = {(row.question_id, row.mode): row for row in rows} | found
    return list(found.values()), num_cut


def _read_rows(path: Path, record: type[AnswerType]) -> tuple[list[AnswerType], bool]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    rows: list[AnswerType] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:  # no JSON, or a cut within a character
            if number == len(lines):
                return rows, True
            raise DataError(f"{path}: line {number} is not valid JSON ({error}); the file was damaged") from error
        try:
            rows.append(record.model_validate(row))
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"])) or "the row"
            raise DataError(
                f"{path}: row {number} is not a {record.__name__} of exo2ego {exo2ego.__version__}: {where}: "
                f"{fault['msg']}; another version wrote it or it was damaged: evaluate again, or use that version"
            ) from error
    return rows, False


def _require_fits(row: Prediction, question: Question | None, folder: Path) -> None:
    where = f"{folder / PREDICTIONS_FILE}: question {row.question_id} ({row.mode})"
    if row.option_scores is not None:
        if not all(map(math.isfinite, row.option_scores)):
            raise EvaluationError(
                f"{where}: option scores are not finite: {row.option_scores}; the model's weights or input are damaged"
            )
        if len(row.option_scores) != row.num_options:
            raise EvaluationError(f"{where}: has {len(row.option_scores)} scores for {row.num_options} options")
    for name, index in (("predicted_index", row.predicted_index), ("answer_index", row.answer_index)):
        if index is not None and not 0 <= index < row.num_options:
            raise EvaluationError(f"{where}: {name} {index} is not one of its {row.num_options} options")
    if question is None:
        return
    given = (row.task, row.num_options, row.answer_index)
    asked = (question.task, len(question.options), question.answer_index)
    if given != asked:
        raise EvaluationError(
            f"{where}: says (task, options, answer) = {given}, questions.jsonl says {asked}; "
            "the folder holds files of two runs: evaluate again"
        )
