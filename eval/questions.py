"""Where questions lie, which are wanted, and how they are read: the EgoBench record format."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from eval.tasks import GROUPS, TASKS
from exo2ego.config import Config
from exo2ego.data.prompting import LETTERS
from exo2ego.data.spans import Span
from exo2ego.errors import DataError, EvaluationError
from exo2ego.records import Question
from exo2ego.storage import read_jsonl


class QuestionSource(Config):
    """Where videos and questions lie."""

    root: Path
    """Folder that the questions' video paths are relative to."""
    questions: list[Path] | None = Field(default=None, min_length=1)
    """Question files (JSONL), or folders that hold `<task>.jsonl`; null: the folder `egobench` in `root`."""

    @field_validator("questions", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return value if isinstance(value, list) or value is None else [value]


class DataOptions(QuestionSource):
    """Where videos and questions lie, for commands that can read a clip store instead of the videos."""

    clip_store: Path | None = None
    """Folder of a clip store made of these questions (docs/clip_store.md), read instead of the videos."""


def question_files(options: QuestionSource, tasks: Sequence[str] | None) -> list[Path]:
    """Returns the question files to read: those given, and of a folder the tables of `tasks` (None: of EgoBench).

    Raises `EvaluationError` for a folder that has none of them.
    """
    files: list[Path] = []
    for path in options.questions or [options.root / "egobench"]:
        if not path.is_dir():
            files.append(path)
            continue
        wanted = tables_of(tasks) if tasks is not None else TASKS
        found = [file for name in wanted if (file := path / f"{name}.jsonl").is_file()]
        if not found:
            there = sorted(file.stem for file in path.glob("*.jsonl"))
            hints = [hint for name in wanted if (hint := _hint(name, there))] if tasks is not None else []
            raise EvaluationError(
                f"{path}: holds no table of {', '.join(wanted)}{''.join(hints)}; it has {', '.join(there) or 'none'}. "
                "Build them with python -m data_builders.egobench.all (docs/egobench.md) or give the files as "
                "data.questions=…"
            )
        files.extend(found)
    return files


def tables_of(tasks: Iterable[str]) -> list[str]:
    """Returns the names of the tables that names of tables and of groups stand for, each once."""
    return list(dict.fromkeys(table for task in tasks for table in GROUPS.get(task, (task,))))


def read_questions(paths: Sequence[Path], tasks: Sequence[str] | None = None) -> list[Question]:
    """Reads multiple-choice questions, and open ones, which have no options; only those of `tasks` where given.

    Raises `DataError` naming file and row, `EvaluationError` for questions that this evaluator cannot put and for a
    task without any.
    """
    wanted = None if tasks is None else tables_of(tasks)
    questions: dict[str, Question] = {}
    found: dict[str, None] = {}
    for path in paths:
        if not path.exists():
            raise DataError(
                f"{path}: no such question file or folder; build it with python -m data_builders.egobench.all "
                "(docs/egobench.md) or give yours as data.questions=…"
            )
        for number, row in enumerate(read_jsonl(path, "question file"), 1):
            where = f"{path}: question {number}"
            question = _read_question(row, where)
            found[question.task] = None
            if wanted is not None and question.task not in wanted:
                continue
            if question.question_id in questions:
                raise EvaluationError(f"{where}: id {question.question_id} is given twice; ids must be unique")
            _require_choices(question, where)
            questions[question.question_id] = question
    for name in wanted or ():
        if name not in found:
            raise EvaluationError(_unknown_task(name, list(found), paths))
    if not questions:
        raise EvaluationError(f"no questions in {', '.join(map(str, paths))}; build them first")
    return list(questions.values())


def _read_question(row: dict[str, Any], where: str) -> Question:
    try:
        json.dumps(row, ensure_ascii=False).encode()
        return Question.model_validate(row)
    except UnicodeEncodeError as error:
        raise DataError(f"{where} holds half a character, which nobody could write down: {error}") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise DataError(f"{where} is not an EgoBench record: {faults}") from error


def _hint(name: str, found: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(name, [*found, *GROUPS, *TASKS], n=1)
    return f" (did you mean {nearest[0]}?)" if nearest and nearest[0] != name else ""


def _unknown_task(name: str, found: Sequence[str], paths: Sequence[Path]) -> str:
    return (
        f"tasks: no questions of {name}{_hint(name, found)} in {', '.join(map(str, paths))}; there are "
        f"{', '.join(found) or 'none'}; build its table (docs/egobench.md) or leave it out of tasks=…"
    )


def _require_choices(question: Question, where: str) -> None:
    if question.options and not 2 <= len(question.options) <= len(LETTERS):
        raise EvaluationError(
            f"{where} ({question.question_id}) has {len(question.options)} options; "
            f"this evaluator puts multiple-choice questions of 2 to {len(LETTERS)} options, and open ones of none"
        )
    if not question.options and not question.answer_text:
        raise EvaluationError(
            f"{where} ({question.question_id}) has 0 options and no answer_text; expected options, or the true answer "
            "of an open question"
        )
    empty = [str(number) for number, option in enumerate(question.options, 1) if not option.strip()]
    if empty:
        raise EvaluationError(
            f"{where} ({question.question_id}): option {', '.join(empty)} is empty; mend or leave it out"
        )
    if question.frames is not None:
        raise EvaluationError(f"{where} ({question.question_id}) lists frames; expected a video with start and end")


def by_clip(questions: Sequence[Question]) -> list[list[Question]]:
    """Returns the questions about each clip together, so that a clip is decoded and encoded once."""
    groups: dict[Span, list[Question]] = {}
    for question in questions:
        groups.setdefault(Span.of(question), []).append(question)
    return list(groups.values())
