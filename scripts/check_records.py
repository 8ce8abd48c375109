"""What can be wrong with a record by itself or beside the others of its file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.parsing import parse_choice
from exo2ego.data.prompting import LETTERS, normal_form
from exo2ego.data.spans import Span
from exo2ego.records import Clip, Conversation, Prediction, Question, Record
from scripts.record_files import Row

RECORD_FAULTS = {
    "empty_file": "a file holds nothing",
    "not_a_record": "the row does not fit the schema",
    "duplicate_id": "an id is given twice",
    "duplicate_content": "two records say the same of the same span (ids, instructions and annotators aside)",
    "empty_text": "a narration, a question without instruction, an answer or an option is empty",
    "num_options": f"a choice needs 2 to {len(LETTERS)} options",
    "answer_not_an_option": "the answer is none of the options, neither by letter nor by text",
    "repeated_option": "the true option is among the options twice",
    "answer_text_differs": "answer_text is not the text of the option at answer_index",
    "meta_misfit": "also_correct or similarities do not fit the options",
    "prediction_misfit": "scores or the predicted index do not fit the number of options",
}
RECORD_NOTES = {
    "wrong_option_repeated": "two wrong options are the same",
    "label_not_public": "the question has no label",
    "instant": "the span has no length: the frame at that instant stands for it",
}
"""What is legal, and worth knowing."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about one row."""

    kind: str
    file: str
    row: int
    record_id: str
    detail: str


@dataclass
class RecordChecks:
    """Checks rows one by one and remembers what it needs to tell duplicates."""

    _ids: dict[tuple[str, str], str] = field(default_factory=dict)
    _contents: dict[int, str] = field(default_factory=dict)

    def __call__(self, file: str, row: Row) -> list[Finding]:
        """Returns what was found about a row."""
        record = row.record
        if record is None:
            raw_id = row.raw.get("id", row.raw.get("clip_id", "")) if isinstance(row.raw, dict) else ""
            return [Finding("not_a_record", file, row.number, str(raw_id), fault) for fault in row.faults]
        record_id = id_of(record)
        found = [*self._repeated(file, row.number, record, record_id), *_faults(record)]
        return [Finding(kind, file, row.number, record_id, detail) for kind, detail in found]

    def _repeated(self, file: str, number: int, record: Record, record_id: str) -> Iterator[tuple[str, str]]:
        where = f"{file}: row {number}"
        mode = record.mode if isinstance(record, Prediction) else ""
        first = self._ids.setdefault((mode, record_id), where)
        if first != where:
            yield "duplicate_id", f"as in {first}"
            return
        if isinstance(record, Prediction):
            return
        # a hash of 64 bits instead of the text: at a million records, a chance below 1e-7 of naming two by mistake
        first = self._contents.setdefault(hash(_content(record)), where)
        if first != where:
            yield "duplicate_content", f"as in {first}"


def id_of(record: Record) -> str:
    """Returns the id of a record of any type."""
    return str(getattr(record, "clip_id", None) or record.to_row()["id"])


def _content(record: Record) -> tuple[Any, ...]:
    if isinstance(record, Clip):
        return record.ego_video, record.start_s, record.end_s, record.text
    if isinstance(record, Conversation):
        return *Span.of(record), record.question, record.answer, *record.options
    assert isinstance(record, Question)
    frames = tuple(record.frames or ())
    return record.task, *Span.of(record), frames, record.question, *sorted(record.options), record.answer_text


def _faults(record: Record) -> Iterator[tuple[str, str]]:
    if isinstance(record, Clip):
        yield from _empty(narration=record.text)
        yield from _instant(record.start_s, record.end_s)
    elif isinstance(record, Conversation):
        yield from _empty(answer=record.answer, question=record.question + record.instruction, options=record.options)
        yield from _instant(record.start_s, record.end_s)
        if record.options:
            yield from _options(record.options)
            if parse_choice(record.answer, record.options).index is None and not _is_one_of(record):
                yield "answer_not_an_option", repr(record.answer[:80])
    elif isinstance(record, Question):
        yield from _question_faults(record)
    elif isinstance(record, Prediction):
        yield from _prediction_faults(record)


def _is_one_of(record: Conversation) -> bool:
    return normal_form(record.answer) in {normal_form(option) for option in record.options}


def _question_faults(question: Question) -> Iterator[tuple[str, str]]:
    yield from _empty(question=question.question, options=question.options)
    yield from _instant(question.start_s, question.end_s)
    truth = question.answer_index
    if question.options:
        yield from _options(question.options)
    if truth is None and question.answer_text is None:
        yield "label_not_public", ""
    if truth is None:
        yield from _empty(answer=question.answer_text if question.answer_text is not None else "-")
    else:
        yield from _repeated_options(question.options, truth)
        text = question.answer_text
        if text is not None and normal_form(text) != normal_form(question.options[truth]):
            yield "answer_text_differs", f"{text[:60]!r} is not {question.options[truth][:60]!r}"
    yield from _meta_faults(question)


def _meta_faults(question: Question) -> Iterator[tuple[str, str]]:
    also_correct, similarities = question.meta.get("also_correct"), question.meta.get("similarities")
    places = range(len(question.options))
    if also_correct is not None and not (
        isinstance(also_correct, list)
        and all(place in places and place != question.answer_index for place in also_correct)
    ):
        yield "meta_misfit", f"also_correct: {also_correct!r}"
    if similarities is not None and not (
        isinstance(similarities, list)
        and len(similarities) == len(question.options)
        and all(isinstance(value, int | float) and -1.001 <= value <= 1.001 for value in similarities)
    ):
        yield "meta_misfit", f"similarities: {similarities!r}"


def _prediction_faults(prediction: Prediction) -> Iterator[tuple[str, str]]:
    scores, places = prediction.option_scores, range(prediction.num_options)
    if scores is not None and (len(scores) != len(places) or not all(map(math.isfinite, scores))):
        yield "prediction_misfit", f"{len(scores)} scores, {len(places)} options: {scores}"
    for name in ("predicted_index", "answer_index"):
        index = getattr(prediction, name)
        if index is not None and index not in places:
            yield "prediction_misfit", f"{name} {index} of {len(places)} options"


def _empty(*, options: Sequence[str] = (), **texts: str) -> Iterator[tuple[str, str]]:
    empty = [name for name, text in texts.items() if not text.strip()]
    empty += [f"option {place}" for place, option in enumerate(options) if not option.strip()]
    if empty:
        yield "empty_text", ", ".join(empty)


def _instant(start_s: float | None, end_s: float | None) -> Iterator[tuple[str, str]]:
    if start_s is not None and start_s == end_s:
        yield "instant", f"{start_s} s"


def _options(options: Sequence[str]) -> Iterator[tuple[str, str]]:
    if not 2 <= len(options) <= len(LETTERS):
        yield "num_options", f"{len(options)} options"


def _repeated_options(options: Sequence[str], truth: int) -> Iterator[tuple[str, str]]:
    forms = [normal_form(option) for option in options]
    wrong = forms[:truth] + forms[truth + 1 :]
    if forms[truth] in wrong:
        yield "repeated_option", repr(options[truth][:80])
    if len(set(wrong)) < len(wrong):
        yield "wrong_option_repeated", ""
