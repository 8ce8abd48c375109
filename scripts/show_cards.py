"""What the page shows of one record, by type."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from exo2ego.data.prompting import LETTERS, normal_form
from exo2ego.data.spans import Span
from exo2ego.records import Clip, Conversation, Prediction, Question, Record
from scripts.record_files import Row
from scripts.record_views import views_of
from scripts.show_frames import View
from scripts.show_prompts import Prompt, PromptBuilder, prompts_of

GROUPS = {
    "clips": ("scenario", "university"),
    "conversations": ("type", "source"),
    "questions": ("task", "source"),
    "predictions": ("task", "source"),
}
"""What the page filters by, for each type of record."""


@dataclass(frozen=True)
class Option:
    """One option of a question with all that is known about it."""

    letter: str
    text: str
    is_truth: bool = False
    is_also_correct: bool = False
    is_predicted: bool = False
    similarity: float | None = None
    score: float | None = None


@dataclass
class Card:
    """One record, ready for the page."""

    number: int
    record_id: str
    group: str = ""
    source: str = ""
    outcome: str = ""
    """right, wrong, not parsed or not labelled, where there is a prediction."""
    texts: list[tuple[str, str]] = field(default_factory=list)
    """(name, text) of what is said: narration, instruction, question, answer."""
    options: list[Option] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    views: list[View] = field(default_factory=list)
    prompts: list[Prompt] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    raw: str = ""

    @property
    def searched(self) -> str:
        """Returns the lower-case text that the page's search looks through."""
        parts = [self.record_id, self.group, self.source, self.raw, *self.faults]
        parts += [text for _, text in self.texts] + [option.text for option in self.options]
        parts += [f"{name} {value}" for name, value in self.facts] + [view.video for view in self.views]
        return " ".join(parts).lower()


def make_card(
    row: Row,
    show_view: Callable[[str, Span], View],
    builder: PromptBuilder,
    questions: Mapping[str, Question],
) -> Card:
    """Returns the card of a row; a prediction is shown with its question where that is given."""
    record = row.record
    if record is None:
        raw = row.raw if isinstance(row.raw, str) else json.dumps(row.raw, ensure_ascii=False, indent=1, default=str)
        return Card(row.number, _raw_id(row.raw), faults=list(row.faults), raw=raw)
    shown: Record = record
    prediction = record if isinstance(record, Prediction) else None
    if prediction is not None and prediction.question_id in questions:
        shown = questions[prediction.question_id]
    card = _CARDS[type(shown)](row.number, shown)
    if prediction is not None:
        _add_prediction(card, prediction, has_question=shown is not prediction)
        if questions and shown is prediction:
            card.faults.append("its question is not in --questions")
    card.views = [show_view(name, span) for name, span in views_of(shown)]
    card.prompts, fault = prompts_of(builder, shown, prediction)
    card.faults += [f"no prompt can be built: {fault}"] if fault else []
    return card


def _clip_card(number: int, clip: Clip) -> Card:
    facts = [("span", _span(clip.start_s, clip.end_s)), ("narrated at", f"{clip.timestamp_s:.2f} s")]
    facts += _told(clip, "take_name", "task", "annotator", "subject", "ego_visible", "unsure", "best_exo")
    return Card(number, clip.clip_id, clip.scenario, clip.university, texts=[("narration", clip.text)], facts=facts)


def _conversation_card(number: int, row: Conversation) -> Card:
    texts = [("instruction", row.instruction), ("question", row.question), ("answer", row.answer)]
    options = [
        Option(letter, text, is_truth=text == row.answer)
        for letter, text in zip(_letters(len(row.options)), row.options, strict=True)
    ]
    facts = [("span", _span(row.start_s, row.end_s)), *_told(row, "frame_rate")]
    return Card(number, row.conversation_id, row.kind, row.source, texts=_filled(texts), options=options, facts=facts)


def _question_card(number: int, question: Question) -> Card:
    also_correct = _meta_list(question, "also_correct", int)
    similarities = _meta_list(question, "similarities", float)
    if len(similarities) != len(question.options):
        similarities = [None] * len(question.options)
    options = [
        Option(
            letter,
            text,
            is_truth=place == question.answer_index,
            is_also_correct=place in also_correct,
            similarity=similarities[place],
        )
        for place, (letter, text) in enumerate(zip(_letters(len(question.options)), question.options, strict=True))
    ]
    texts = [("question", question.question)]
    truth, answer = question.answer_index, question.answer_text
    if truth is None:
        texts.append(("answer", answer or "the label is not public"))
    elif answer is not None and normal_form(answer) != normal_form(question.options[truth]):
        texts.append(("answer_text", answer))
    facts = [
        ("span", _span(question.start_s, question.end_s)),
        *_told(question, "split", "observation_s", "frame_rate"),
    ]
    if question.frames is not None:
        facts.append(("frames", f"{len(question.frames)} pictures are listed"))
    hidden = {"also_correct", "similarities", "exo_videos"}
    facts += [(name, _short(value)) for name, value in question.meta.items() if name not in hidden]
    return Card(number, question.question_id, question.task, question.source, texts=texts, options=options, facts=facts)


def _prediction_card(number: int, prediction: Prediction) -> Card:
    options = [
        Option(letter, "", place == prediction.answer_index)
        for place, letter in enumerate(_letters(prediction.num_options))
    ]
    return Card(number, prediction.question_id, prediction.task, prediction.mode, options=options)


def _add_prediction(card: Card, prediction: Prediction, *, has_question: bool) -> None:
    scores: Sequence[float | None] = prediction.option_scores or []
    if len(scores) != len(card.options):
        scores = [None] * len(card.options)
    card.options = [
        replace(option, is_predicted=place == prediction.predicted_index, score=scores[place])
        for place, option in enumerate(card.options)
    ]
    if prediction.answer_index is None:
        card.outcome = "not labelled"
    elif prediction.predicted_index is None:
        card.outcome = "not parsed"
    else:
        card.outcome = "right" if prediction.predicted_index == prediction.answer_index else "wrong"
    if prediction.raw_output is not None:
        card.texts.append(("output", prediction.raw_output))
    card.facts += [("answered by", prediction.mode), ("seconds", f"{prediction.seconds:.3f}")]
    if has_question and len(card.options) != prediction.num_options:
        card.faults.append(f"answered with {prediction.num_options} options; the question has {len(card.options)}")


_CARDS: Mapping[type[Record], Callable[[int, Any], Card]] = {
    Clip: _clip_card,
    Conversation: _conversation_card,
    Question: _question_card,
    Prediction: _prediction_card,
}


def _letters(count: int) -> list[str]:
    """Returns A, B, …; numbers beyond the letters that the evaluator knows."""
    return [LETTERS[place] if place < len(LETTERS) else str(place + 1) for place in range(count)]


def _filled(texts: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, text) for name, text in texts if text.strip() or name == "answer"]


def _told(record: Record, *names: str) -> list[tuple[str, str]]:
    """Returns the named fields that say something."""
    values = {name: getattr(record, name) for name in names}
    return [(name, str(value)) for name, value in values.items() if value not in (None, "")]


def _span(start_s: float | None, end_s: float | None) -> str:
    if start_s is None and end_s is None:
        return "the whole video"
    start = 0.0 if start_s is None else start_s
    return f"{start:.2f} s to the end" if end_s is None else f"{start:.2f} to {end_s:.2f} s ({end_s - start:.2f} s)"


def _meta_list(question: Question, key: str, kind: type[int] | type[float]) -> list[Any]:
    """Returns a list of numbers from `meta`, empty where it holds something else."""
    values = question.meta.get(key)
    if not isinstance(values, list):
        return []
    numbers = [value for value in values if isinstance(value, int | float) and math.isfinite(value)]
    return [kind(value) for value in numbers] if len(numbers) == len(values) else []


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 300 else f"{text[:300]}…"


def _raw_id(raw: Any) -> str:
    found = raw.get("id", raw.get("clip_id")) if isinstance(raw, dict) else None
    return str(found) if found is not None else "(no id)"
