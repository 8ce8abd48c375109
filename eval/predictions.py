"""The output folder of an evaluation: what belongs to which run, predictions line by line, failures."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from pydantic import ValidationError

from eval.failures import Failure
from eval.folder_lock import locked
from exo2ego.console import console
from exo2ego.errors import DataError, EvaluationError
from exo2ego.records import Prediction, Question, Record
from exo2ego.storage import (
    JsonlAppender,
    atomic_path,
    hash_text,
    read_json,
    read_jsonl,
    remove_leftovers,
    write_json,
    write_jsonl,
)

RUN_FILE = "run.json"
PREDICTIONS_FILE = "predictions.jsonl"
FAILURES_FILE = "failures.jsonl"
QUESTIONS_FILE = "questions.jsonl"

RecordType = TypeVar("RecordType", bound=Record)


class PredictionStore:
    """Appends predictions to a folder that belongs to one run key; a rerun with the same key continues.

    A folder that holds another run is moved aside, and said so: predictions of two runs are never mixed, nor lost. One
    that another run is writing into is refused. Several processes write a part each, which `merge_parts` puts together;
    the first of them claims the folder before the others open it. Raises `EvaluationError` when a folder holds
    predictions that belong to no run.
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
        self._failed: set[str] = set()
        self._read_bytes: dict[Path, int] = {}
        with ExitStack() as opened:
            if part is None:
                opened.enter_context(_claimed(folder, key, provenance, questions))
            else:
                opened.enter_context(locked(folder, shared=True))
            suffix = "" if part is None else f".part-{part}"
            # opening first removes a half-written last line
            self._predictions = opened.enter_context(JsonlAppender(folder / f"{PREDICTIONS_FILE}{suffix}"))
            self.done = {(row.question_id, row.mode): row for row in read_predictions(folder)}
            self._failures = opened.enter_context(JsonlAppender(folder / f"{FAILURES_FILE}{suffix}"))
            self._opened = opened.pop_all()

    def __enter__(self) -> PredictionStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # what stands in a buffer that could not be written is tried once more by closing; the first error says it all
        with suppress(OSError) if kind is not None else nullcontext():
            self._opened.__exit__(kind, error, trace)

    def add(self, prediction: Prediction) -> None:
        """Appends one prediction; raises `DataError` where it cannot be written."""
        _append(self._predictions, prediction)
        self.done[prediction.question_id, prediction.mode] = prediction

    def fail(self, failure: Failure) -> None:
        """Records one question that cannot be answered; raises `DataError` where it cannot be written."""
        _append(self._failures, failure)

    def count_failed(self) -> int:
        """Returns how many questions have failed in this run so far, in all of its processes."""
        for path in self.folder.glob(f"{FAILURES_FILE}*"):
            with path.open("rb") as stream:
                stream.seek(self._read_bytes.get(path, 0))
                new = stream.read()
            whole = new[: new.rfind(b"\n") + 1]  # another process may be writing the last line
            self._failed.update(json.loads(line)["id"] for line in whole.splitlines())
            self._read_bytes[path] = self._read_bytes.get(path, 0) + len(whole)
        return len(self._failed)


def _append(file: JsonlAppender, row: Record) -> None:
    try:
        file.append(row.to_row())
    except OSError as error:
        raise DataError(
            f"{file.path}: cannot be written ({error.strerror}); what stands in it is kept: free space or repair what "
            "failed, then run the same command again"
        ) from error


def claim(folder: Path, key: Mapping[str, Any], provenance: Mapping[str, Any], questions: Sequence[Question]) -> None:
    """Makes the folder this run's: it is new, holds the same run, or what it holds is moved aside."""
    _claimed(folder, key, provenance, questions).close()


def _claimed(
    folder: Path, key: Mapping[str, Any], provenance: Mapping[str, Any], questions: Sequence[Question]
) -> ExitStack:
    """Claims the folder; its lock is held until what is returned is closed."""
    with ExitStack() as lock:
        lock.enter_context(locked(folder))
        if _move_aside_another(folder, dict(key)):
            lock.close()
            lock.enter_context(locked(folder))
        remove_leftovers(folder)
        _describe(folder, dict(key), provenance, questions)
        for path in folder.glob(f"{FAILURES_FILE}*"):
            path.unlink()  # failed questions are tried again in every run
        parts = folder.glob(f"{PREDICTIONS_FILE}.part-*")
        for path in (folder / FAILURES_FILE, folder / PREDICTIONS_FILE, *parts):
            JsonlAppender(path).close()  # makes it, or cuts off a line that a kill left half-written
            _set_damage_aside(path)
        _merge_all(folder)
        return lock.pop_all()


def merge_parts(folder: Path) -> None:
    """Puts the parts of several processes behind what is there, in the order of their numbers, and removes them.

    A kill in between loses nothing: a row that stands in both is taken once.
    """
    with locked(folder):
        _merge_all(folder)


def _merge_all(folder: Path) -> None:
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


def _set_damage_aside(path: Path) -> None:
    """Moves lines that are no predictions to a file beside it, so that their questions are asked again.

    A kill leaves no such line, but a power cut, a failing disk or an editor may: hours of answers around them are good.
    """
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = {line for line in lines if line.strip() and not _is_prediction(line)}
    if not damaged:
        return
    places = (path.with_name(f"damaged-{number}.{path.name}") for number in count(1))
    place = next(place for place in places if not place.exists())
    for target, is_damaged in ((place, True), (path, False)):
        with atomic_path(target) as temporary:
            temporary.write_bytes(b"".join(line for line in lines if (line in damaged) == is_damaged))
    console.print(
        f"{path}: {len(damaged)} damaged lines are now in {place.name}; their questions are asked again", markup=False
    )


def _is_prediction(line: bytes) -> bool:
    try:
        row = Prediction.model_validate_json(line)
    except ValidationError:
        return False
    return all(map(math.isfinite, row.option_scores or ()))


def _move_aside_another(folder: Path, key: dict[str, Any]) -> bool:
    """Renames the folder where it holds another run, and says so; raises `EvaluationError` where it holds no run."""
    if not (folder / RUN_FILE).exists():
        if (folder / PREDICTIONS_FILE).exists():
            raise EvaluationError(f"{folder}: holds predictions but no {RUN_FILE}; give a new folder as output=…")
        return False
    description = read_json(folder / RUN_FILE, "description of the run")
    former = description.get("key") if isinstance(description, dict) else None
    if not isinstance(former, dict):
        raise EvaluationError(f"{folder / RUN_FILE}: describes no run; give a new folder as output=…")
    changed = [name for name in {**former, **key} if former.get(name) != key.get(name)]
    if changed:
        _move_aside(folder, former, changed, key)
    return bool(changed)


def _describe(folder: Path, key: dict[str, Any], provenance: Mapping[str, Any], questions: Sequence[Question]) -> None:
    """Writes what was run and asked, where that does not stand there already."""
    asked = [json.dumps(question.to_row(), ensure_ascii=False).encode() for question in questions]
    path = folder / QUESTIONS_FILE
    if not path.exists() or (asked and sorted(path.read_bytes().splitlines()) != sorted(asked)):
        write_jsonl(path, (question.to_row() for question in questions))
    if not (folder / RUN_FILE).exists():
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
