"""The output folder of an evaluation: what belongs to which run, predictions line by line, failures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from exo2ego.console import console
from exo2ego.errors import DataError, EvaluationError
from exo2ego.records import AnswerMode, Prediction, Question, Record
from exo2ego.storage import JsonlAppender, hash_text, read_json, read_jsonl, write_json, write_jsonl

RUN_FILE = "run.json"
PREDICTIONS_FILE = "predictions.jsonl"
FAILURES_FILE = "failures.jsonl"
QUESTIONS_FILE = "questions.jsonl"

RecordType = TypeVar("RecordType", bound=Record)


class Failure(Record):
    """A question that was not answered because its video cannot be read."""

    question_id: str = Field(alias="id")
    task: str
    mode: AnswerMode
    video: str
    reason: str
    detail: str


class PredictionStore:
    """Appends predictions to a folder that belongs to one run key; a rerun with the same key continues.

    A folder that holds another run is moved aside, and said so: predictions of two runs are never mixed, nor lost.
    Several processes write a part each, which `merge_parts` puts together; the first of them claims the folder before
    the others open it. Raises `EvaluationError` when a folder holds predictions that belong to no run.
    """

    def __init__(
        self,
        folder: Path,
        key: Mapping[str, Any],
        provenance: Mapping[str, Any],
        questions: Sequence[Question] = (),
        *,
        part: int | None = None,
    ) -> None:
        self.folder = folder
        if part is None:
            claim(folder, key, provenance, questions)
        suffix = "" if part is None else f".part-{part}"
        # opening first removes a half-written last line
        self._predictions = JsonlAppender(folder / f"{PREDICTIONS_FILE}{suffix}")
        self.done = {(row.question_id, row.mode): row for row in read_predictions(folder)}
        self._failures = JsonlAppender(folder / f"{FAILURES_FILE}{suffix}")

    def __enter__(self) -> PredictionStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._predictions.close()
        self._failures.close()

    def add(self, prediction: Prediction) -> None:
        """Appends one prediction."""
        self._predictions.append(prediction.to_row())
        self.done[prediction.question_id, prediction.mode] = prediction

    def fail(self, failure: Failure) -> None:
        """Records one question that cannot be answered."""
        self._failures.append(failure.to_row())


def claim(folder: Path, key: Mapping[str, Any], provenance: Mapping[str, Any], questions: Sequence[Question]) -> None:
    """Makes the folder this run's: it is new, holds the same run, or what it holds is moved aside."""
    _claim(folder, dict(key), provenance, questions)
    for path in folder.glob(f"{FAILURES_FILE}*"):
        path.unlink()  # failed questions are tried again in every run
    for name in (PREDICTIONS_FILE, FAILURES_FILE):
        JsonlAppender(folder / name).close()  # makes it, or cuts off a line that a kill left half-written
    merge_parts(folder)


def merge_parts(folder: Path) -> None:
    """Puts the parts of several processes behind what is there, in the order of their numbers, and removes them.

    A kill in between loses nothing: a row that stands in both is taken once.
    """
    _merge(folder, PREDICTIONS_FILE, Prediction)
    _merge(folder, FAILURES_FILE, Failure)


def _merge(folder: Path, name: str, record: type[Prediction] | type[Failure]) -> None:
    parts = sorted(folder.glob(f"{name}.part-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    if not parts:
        return
    files = [folder / name, *parts]
    for path in parts:
        JsonlAppender(path).close()
    rows = {(row.question_id, row.mode): row for path in files for row in _read(path, record)}
    write_jsonl(folder / name, (row.to_row() for row in rows.values()))
    for path in parts:
        path.unlink()


def _claim(folder: Path, key: dict[str, Any], provenance: Mapping[str, Any], questions: Sequence[Question]) -> None:
    if (folder / RUN_FILE).exists():
        former = read_json(folder / RUN_FILE, "description of the run").get("key", {})
        changed = [name for name in {**former, **key} if former.get(name) != key.get(name)]
        if not changed:
            return
        _move_aside(folder, former, changed, key)
    elif (folder / PREDICTIONS_FILE).exists():
        raise EvaluationError(f"{folder}: holds predictions but no {RUN_FILE}; give a new folder as output=…")
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / QUESTIONS_FILE, (question.to_row() for question in questions))
    write_json(folder / RUN_FILE, {"key": key, "provenance": provenance})


def _move_aside(folder: Path, former: dict[str, Any], changed: Sequence[str], key: dict[str, Any]) -> None:
    """Renames the folder of another run, in one step: a kill leaves it where it was or where it goes."""
    name = hash_text(json.dumps(former, sort_keys=True))[:8]
    places = (folder.with_name(f"{folder.name}.earlier-{name}.{number}") for number in count(1))
    place = next(path for path in places if not path.exists())
    folder.rename(place)
    differences = "; ".join(f"{name}: there {former.get(name)!r}, now {key.get(name)!r}" for name in changed)
    console.print(
        f"{folder}: held the predictions of another run, which are now in {place.name}; this run starts afresh "
        f"({differences})",
        markup=False,
    )


def read_asked(folder: Path) -> dict[str, Question]:
    """Reads the questions that a run asked, by id; none for a folder that was written without them."""
    path = folder / QUESTIONS_FILE
    return {row.question_id: row for row in _read(path, Question)} if path.exists() else {}


def read_predictions(folder: Path) -> list[Prediction]:
    """Reads the predictions of a run; raises `DataError` for a damaged file or a question answered twice."""
    predictions = _read(folder / PREDICTIONS_FILE, Prediction)
    if len({(row.question_id, row.mode) for row in predictions}) < len(predictions):
        raise DataError(f"{folder / PREDICTIONS_FILE}: a question has two predictions; two runs wrote into this folder")
    return predictions


def answered_openly(folder: Path) -> list[tuple[str, str, str]]:
    """Returns (question id, true answer, given answer) of the open questions with a known answer, sorted by id."""
    asked = read_asked(folder)
    return sorted(
        (row.question_id, asked[row.question_id].answer_text or "", row.raw_output or "")
        for row in read_predictions(folder)
        if row.num_options == 0 and row.question_id in asked and asked[row.question_id].answer_text
    )


def read_failures(folder: Path) -> list[Failure]:
    """Reads the failures of a run's last pass."""
    return _read(folder / FAILURES_FILE, Failure)


def _read(path: Path, record: type[RecordType]) -> list[RecordType]:
    rows = []
    for number, row in enumerate(read_jsonl(path, "file of an evaluation"), 1):
        try:
            rows.append(record.model_validate(row))
        except ValidationError as error:
            raise DataError(f"{path}: row {number} is not a {record.__name__}: {error.errors()[0]['msg']}") from error
    return rows
