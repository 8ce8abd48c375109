"""Reads question files in the EgoBench record format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from exo2ego.data.prompting import LETTERS
from exo2ego.data.spans import Span
from exo2ego.errors import DataError, EvaluationError
from exo2ego.records import Question
from exo2ego.storage import read_jsonl


def read_questions(paths: Sequence[Path]) -> list[Question]:
    """Reads multiple-choice questions, and open ones, which have no options.

    Raises `DataError` naming file and row, `EvaluationError` for questions that this evaluator cannot put.
    """
    questions: dict[str, Question] = {}
    for path in paths:
        for number, row in enumerate(read_jsonl(path, "question file"), 1):
            where = f"{path}: question {number}"
            try:
                question = Question.model_validate(row)
            except ValidationError as error:
                faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
                raise DataError(f"{where} is not an EgoBench record: {faults}") from error
            if question.question_id in questions:
                raise EvaluationError(f"{where}: id {question.question_id} is given twice; ids must be unique")
            _require_choices(question, where)
            questions[question.question_id] = question
    if not questions:
        raise EvaluationError(f"no questions in {', '.join(map(str, paths))}; build them first")
    return list(questions.values())


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
    if question.frames is not None:
        raise EvaluationError(f"{where} ({question.question_id}) lists frames; expected a video with start and end")


def by_clip(questions: Sequence[Question]) -> list[list[Question]]:
    """Returns the questions about each clip together, so that a clip is decoded and encoded once."""
    groups: dict[Span, list[Question]] = {}
    for question in questions:
        groups.setdefault(Span.of(question), []).append(question)
    return list(groups.values())
