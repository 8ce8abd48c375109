"""Parts of a task: which questions are in which, against counts made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from eval.metrics.slices import clip_length, slice_scores
from exo2ego.records import Prediction, Question
from tests.eval.result_folder import question


def asked(number: int, task: str = "egoschema", **changes: Any) -> Question:
    return Question.model_validate(question(task, number, **changes))


def answered(row: Question, predicted: int | None) -> Prediction:
    return Prediction(
        id=row.question_id,
        task=row.task,
        mode="generate",
        prompt_hash="h",
        predicted_index=predicted,
        answer_index=row.answer_index,
        num_options=len(row.options),
        video=row.video,
        seconds=0.1,
    )


def parts(rows: list[tuple[Question, int | None]]) -> dict[tuple[str, str], tuple[int, float]]:
    found = slice_scores([answered(*row) for row in rows], {row.question_id: row for row, _ in rows})
    return {(one.dimension, one.value): (one.count, one.accuracy) for one in found}


@pytest.mark.parametrize(
    ("start_s", "end_s", "expected"),
    [
        (0.0, 1.99, "under 2 s"),
        (3.0, 5.0, "2 to 5 s"),
        (None, 5.0, "5 to 15 s"),
        (0.0, 180.0, "180 s and more"),
        (0.0, 179.9, "60 to 180 s"),
        (None, None, "whole video"),
        (5.0, None, "whole video"),
    ],
)
def test_clip_lengths(start_s: float | None, end_s: float | None, expected: str) -> None:
    assert clip_length(asked(0, start=start_s, end=end_s)) == expected


def test_positions_and_options() -> None:
    rows = [
        (asked(0, answer_index=0), 0),
        (asked(1, answer_index=0), 1),
        (asked(2, answer_index=1), None),
        (asked(3, answer_index=1, options=["a", "b"]), 1),
    ]
    found = parts(rows)
    assert found["position of the truth", "A"] == (2, 0.5)
    assert found["position of the truth", "B"] == (2, 0.5)
    assert found["position predicted", "B"] == (2, 0.5)
    assert found["position predicted", "none"] == (1, 0.0)
    assert found["number of options", "2"] == (1, 1.0)
    assert found["number of options", "5"] == (3, pytest.approx(1 / 3))


def test_the_reasoning_of_egotaskqa_is_taken_apart() -> None:
    kinds = ("descriptive$world$action$query$direct", "predictive$explanatory$multi-agent$state$verify$indirect")
    rows = [
        (
            asked(n, "egotaskqa_direct", answer_index=0, meta={"reasoning_type": kinds[n % 2], "answer_form": form}),
            int(n == 0),
        )
        for n, form in enumerate(("open", "open", "binary", "open"))
    ]
    found = parts(rows)
    assert found["reasoning type", "descriptive"] == (2, 0.5)
    assert found["reasoning type", "predictive"] == found["reasoning type", "explanatory"] == (2, 1.0)
    assert found["scope", "multi-agent"] == (2, 1.0)
    assert found["semantic", "action"] == (2, 0.5)
    assert found["structure", "verify"] == (2, 1.0)
    assert found["reference", "indirect"] == (2, 1.0)
    assert found["answer form", "binary"] == (1, 1.0)
    assert found["answer form", "open"][0] == 3


@pytest.mark.parametrize(
    ("text", "dimensions"),
    [
        ("descriptive$action$query$direct", {"reasoning type", "semantic", "structure", "reference"}),
        ("world$action$query$direct", {"scope", "semantic", "structure", "reference"}),
        ("action$query$direct", set()),
        ("descriptive$world$action$query$", set()),
        ("", set()),
    ],
)
def test_what_a_reasoning_type_holds(text: str, dimensions: set[str]) -> None:
    """Beside a question of another type, so that every dimension has two values."""
    other = "causal$predictive$state$verify$indirect"
    rows = [
        (asked(n, "egotaskqa_direct", answer_index=0, question="Is it?", meta={"reasoning_type": kind}), 0)
        for n, kind in enumerate([text, other])
    ]
    named = {"reasoning type", "scope", "semantic", "structure", "reference"}
    values = {key for key in _all_values(rows) if key[0] in named and key[1] in text.split("$")}
    assert {dimension for dimension, _ in values} == dimensions


def _all_values(rows: list[tuple[Question, int | None]]) -> set[tuple[str, str]]:
    """Also of dimensions with one value, by a third question that has another one in each."""
    third = asked(9, "egotaskqa_direct", answer_index=0, meta={"reasoning_type": "explanatory$team$object$choose$both"})
    return set(parts([*rows, (third, 0)]))


def test_the_chance_of_a_part_is_the_mean_over_its_questions() -> None:
    sizes = (2, 4, 4, 5)
    rows = [asked(n, answer_index=n // 2, options=list("abcde"[:size])) for n, size in enumerate(sizes)]
    found = slice_scores([answered(row, 0) for row in rows], {row.question_id: row for row in rows})
    chances = {(one.dimension, one.value): one.chance for one in found}
    assert chances["position of the truth", "A"] == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert chances["position of the truth", "B"] == pytest.approx((1 / 4 + 1 / 5) / 2)


def test_every_question_is_in_one_part_of_a_dimension_and_rare_words_are_joined() -> None:
    words = [f"word{n}" for n in range(12)]
    rows = [(asked(n, question=f"{words[n % 12]} is it?", answer_index=0), 0) for n in range(40)]
    found = parts(rows)
    opening = {value: count for (dimension, value), (count, _) in found.items() if dimension == "opening word"}
    assert sum(opening.values()) == 40
    assert len(opening) == 9
    assert list(opening)[-1] == "other words"


def test_what_all_questions_share_is_no_part() -> None:
    rows = [(asked(n, answer_index=2, question="What is it?", start=0, end=3), 2) for n in range(4)]
    assert parts(rows) == {}


def test_without_questions_there_are_positions_alone() -> None:
    rows = [answered(asked(n, answer_index=n % 2), 0) for n in range(4)]
    assert {one.dimension for one in slice_scores(rows, {})} == {"position of the truth"}
