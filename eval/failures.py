"""Questions that were not answered."""

from __future__ import annotations

from pydantic import Field

from exo2ego.records import AnswerMode, Record


class Failure(Record):
    """A question that was not answered: its video cannot be read, or the model or its endpoint failed at it."""

    question_id: str = Field(alias="id")
    task: str
    mode: AnswerMode
    video: str
    reason: str
    detail: str
