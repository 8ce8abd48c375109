"""Records: closed, checked, and written by the names of the file formats."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from exo2ego.records import Clip, Conversation, Prediction, Question, Record
from tests.shared_data import REPOSITORY

CLIP = {
    "clip_id": "cooking_01/0/3",
    "take_uid": "u",
    "take_name": "cooking_01",
    "start_s": 1.0,
    "end_s": 2.0,
    "timestamp_s": 1.5,
    "text": "C picks up a cup.",
    "annotator": "a",
    "ego_video": "takes/cooking_01/frame_aligned_videos/aria01_214-1.mp4",
    "exo_videos": ["takes/cooking_01/frame_aligned_videos/cam01.mp4"],
}
QUESTION = {
    "id": "q1",
    "task": "narration",
    "source": "s",
    "video": "v.mp4",
    "question": "What?",
    "options": ["a", "b"],
}


@pytest.mark.parametrize(("start_s", "end_s"), [(0.0, 0.0), (1.0, 2.5)])
def test_a_clip_spans_forward(start_s: float, end_s: float) -> None:
    clip = Clip.model_validate({**CLIP, "start_s": start_s, "end_s": end_s})
    assert Clip.model_validate(clip.to_row()) == clip


@pytest.mark.parametrize(("start_s", "end_s"), [(2.0, 1.0), (-0.1, 1.0), (float("nan"), 1.0), (0.0, float("nan"))])
def test_a_clip_that_does_not_is_refused_by_name(start_s: float, end_s: float) -> None:
    with pytest.raises(ValidationError, match="clip cooking_01/0/3: expected 0 <= start <= end in seconds"):
        Clip.model_validate({**CLIP, "start_s": start_s, "end_s": end_s})


def test_records_are_closed_and_frozen() -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        Clip.model_validate({**CLIP, "fps": 30})
    with pytest.raises(ValidationError, match="frozen"):
        Clip.model_validate(CLIP).text = "other"  # type: ignore[misc]


@pytest.mark.parametrize("answer_index", [-1, 2])
def test_an_answer_is_one_of_the_options(answer_index: int) -> None:
    with pytest.raises(ValidationError, match=r"question q1: answer_index .* is not one of its 2 options"):
        Question.model_validate({**QUESTION, "answer_index": answer_index})


def test_open_and_unlabelled_questions_are_records() -> None:
    assert Question.model_validate({**QUESTION, "options": [], "answer_text": "a cup"}).answer_index is None
    with pytest.raises(ValidationError, match="0 options"):
        Question.model_validate({**QUESTION, "options": [], "answer_index": 0})


def test_rows_carry_the_names_of_the_format_and_read_back() -> None:
    conversation = Conversation(conversation_id="c1", source="s", video="v.mp4", start_s=1, kind="qa", answer="yes")
    row = conversation.to_row()
    assert {"id": "c1", "start": 1.0, "end": None, "type": "qa"}.items() <= row.items()
    assert Conversation.model_validate(row) == conversation


optional_scores = st.none() | st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=5)
prediction_rows = st.fixed_dictionaries(
    {
        "id": st.text(),
        "task": st.text(),
        "mode": st.sampled_from(["likelihood", "letter", "generate"]),
        "prompt_hash": st.text(),
        "raw_output": st.none() | st.text(),
        "option_scores": optional_scores,
        "predicted_index": st.none() | st.integers(0, 4),
        "answer_index": st.none() | st.integers(0, 4),
        "num_options": st.integers(0, 5),
        "video": st.text(),
        "seconds": st.floats(0, 1e6),
    }
)


@given(prediction_rows)
def test_predictions_survive_json(row: dict[str, Any]) -> None:
    assert Prediction.model_validate(json.loads(json.dumps(row))).to_row() == row


@pytest.mark.parametrize(("record", "title"), [(Conversation, "The EgoIT record"), (Question, "The EgoBench record")])
def test_every_field_of_a_record_is_documented(record: type[Record], title: str) -> None:
    text = (REPOSITORY / "docs" / "data.md").read_text(encoding="utf-8")
    section = re.split(r"\n##+ ", text.split(f"### {title}\n")[1])[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert documented == {field.alias or name for name, field in record.model_fields.items()}


@pytest.mark.parametrize(("start", "end"), [(2.0, 1.0), (-1.0, None), (float("nan"), None), (0.0, float("nan"))])
def test_spans_of_conversations_and_questions_are_forward(start: float, end: float | None) -> None:
    span = {"start": start, "end": end, "video": "v.mp4", "source": "s", "question": "q"}
    with pytest.raises(ValidationError, match="conversation c: expected 0 <= start <= end"):
        Conversation.model_validate({"id": "c", "answer": "a", **span})
    with pytest.raises(ValidationError, match="question q: expected 0 <= start <= end"):
        Question.model_validate({"id": "q", "task": "t", "options": [], **span})


def test_a_record_of_another_schema_is_refused() -> None:
    with pytest.raises(ValidationError, match="version"):
        Conversation.model_validate({"id": "c", "source": "s", "video": "v", "answer": "a", "version": 2})
