"""The measures that the paper prints as mAP and nDCG against values worked out by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.metrics.measures import Measure
from eval.metrics.rank_measures import rank_measures
from eval.metrics.scoring import best_option, printed_values
from exo2ego.errors import DataError
from exo2ego.intervals import clustered_interval
from exo2ego.records import Prediction, Question
from tests.shared_data import shared_path

LOG_3 = math.log2(3)


def asked(name: str, task: str, video: str, options: list[str], truth: int, **meta: Any) -> Question:
    return Question(
        id=name,
        task=task,
        source="s",
        video=video,
        question="?",
        options=options,
        answer_index=truth,
        answer_text=options[truth],
        meta=meta,
    )


def scored(question: Question, scores: list[float]) -> Prediction:
    return answered(question, best_option(scores), mode="likelihood", option_scores=scores)


def answered(question: Question, predicted: int | None, **more: Any) -> Prediction:
    values = {
        "id": question.question_id,
        "task": question.task,
        "mode": "generate",
        "prompt_hash": "h",
        "predicted_index": predicted,
        "answer_index": question.answer_index,
        "num_options": len(question.options),
        "video": question.video,
        "seconds": 0.1,
        **more,
    }
    return Prediction.model_validate(values)


def measured(rows: list[Prediction], questions: list[Question]) -> dict[str, Measure]:
    by_id = {question.question_id: question for question in questions}
    return {measure.name: measure for measure in rank_measures(questions[0].task, rows, by_id)}


CHARADES = [
    asked("1", "charades_ego", "v1", ["a", "b", "c"], 0),
    asked("2", "charades_ego", "v2", ["b", "A.", "D."], 0),  # "A." is class "a"
    asked("3", "charades_ego", "v2", ["a", "c", "D."], 0),
]
LOG_PROBABILITIES = [[-1.0, -2.0, -3.0], [-3.0, -2.0, -1.0], [-2.0, -2.0, -3.0]]


def test_charades_by_scores() -> None:
    """The truth stands first, last, and shares the first two places.

    Class a: the truth at ranks 1 and 3 of the three videos that have it as an option (of equal scores the earlier row
    comes first); class b: at rank 2 of two. Classes c and d are never true.
    """
    rows = [scored(question, scores) for question, scores in zip(CHARADES, LOG_PROBABILITIES, strict=True)]
    found = measured(rows, CHARADES)
    assert list(found) == ["option_mAP", "option_nDCG", "class_mAP"]
    precisions, gains = [1, 1 / 3, (1 + 1 / 2) / 2], [1, 1 / 2, (1 + 1 / LOG_3) / 2]
    assert found["option_mAP"].value == pytest.approx(sum(precisions) / 3)
    assert found["option_nDCG"].value == pytest.approx(sum(gains) / 3)
    assert found["class_mAP"].value == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2)
    assert found["option_mAP"].chance == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert found["option_nDCG"].chance == pytest.approx((1 + 1 / LOG_3 + 1 / 2) / 3)
    assert found["class_mAP"].chance is None
    assert found["option_mAP"].interval == clustered_interval(precisions, ["v1", "v2", "v2"])
    assert {measure.count for measure in found.values()} == {3}
    assert printed_values("charades_ego", rows) == pytest.approx(precisions)


EK100 = [
    asked("1", "ek100_mir", "v1", ["a", "b", "c"], 0, relevance=[1.0, 0.5, 0.0]),
    asked("2", "ek100_mir", "v2", ["a", "b", "c"], 0, relevance=[1.0, 0.0, 0.0]),
    asked("3", "ek100_mir", "v2", ["a", "b", "c"], 1, relevance=[0.0, 1.0, 1.0]),
    asked("4", "ek100_mir", "v2", ["a", "b"], 1, relevance=[0.5, 1.0]),
]


def test_ek100_by_scores() -> None:
    """Relevances as ranked: (.5, 0, 1), (1, 0, 0), (1, 0, 1), (1, .5); the gain is cut at the number of relevant."""
    scores = [[1.0, 3.0, 2.0], [5.0, 1.0, 1.0], [1.0, 2.0, 0.0], [1.0, 2.0]]
    found = measured([scored(question, row) for question, row in zip(EK100, scores, strict=True)], EK100)
    assert list(found) == ["option_mAP", "option_nDCG", "graded_mAP", "graded_nDCG"]
    precisions = [1.5 / 3, 1, (1 + 2 / 3) / 2, 1]
    gains = [0.5 / (1 + 0.5 / LOG_3), 1, 1 / (1 + 1 / LOG_3), 1]
    assert found["option_mAP"].value == pytest.approx((1 / 3 + 1 + 1 + 1) / 4)
    assert found["option_nDCG"].value == pytest.approx((1 / 2 + 1 + 1 + 1) / 4)
    assert found["graded_mAP"].value == pytest.approx(sum(precisions) / 4)
    assert found["graded_nDCG"].value == pytest.approx(sum(gains) / 4)
    assert found["graded_mAP"].interval is not None
    of_v2 = (precisions[1] + precisions[2]) / 2
    expected = clustered_interval([precisions[0], of_v2, of_v2, 1], ["v1", "v2", "v2", "v2"])
    assert found["graded_mAP"].interval.low == pytest.approx(expected.low)
    assert found["graded_mAP"].interval.high == pytest.approx(expected.high)


def test_relevance_that_does_not_fit_is_refused_and_without_it_there_is_no_graded_measure() -> None:
    question = asked("1", "ek100_mir", "v1", ["a", "b"], 0, relevance=[1.0])
    with pytest.raises(DataError, match=r"question 1: meta\.relevance has 1 values for 2 options"):
        measured([scored(question, [1.0, 0.0])], [question])
    question = asked("1", "ek100_mir", "v1", ["a", "b"], 0)
    assert list(measured([scored(question, [1.0, 0.0])], [question])) == ["option_mAP", "option_nDCG"]


@pytest.mark.parametrize("questions", [CHARADES, EK100], ids=["charades_ego", "ek100_mir"])
def test_spoken_answers_have_the_measures_of_options_alone(questions: list[Question]) -> None:
    """Named right: rank 1. Named wrong: the mean over ranks 2 and 3. Names none: rank 3."""
    predicted = [questions[0].answer_index, 1, None]
    rows = [answered(question, index) for question, index in zip(questions[:3], predicted, strict=True)]
    if questions is EK100:
        rows[1] = answered(questions[1], 2)
    found = measured(rows, questions)
    assert list(found) == ["option_mAP", "option_nDCG"]
    assert found["option_mAP"].value == pytest.approx((1 + (1 / 2 + 1 / 3) / 2 + 1 / 3) / 3)
    assert found["option_nDCG"].value == pytest.approx((1 + (1 / LOG_3 + 1 / 2) / 2 + 1 / 2) / 3)


@given(st.lists(st.sampled_from(["right", "wrong"]), min_size=1, max_size=6), st.integers(0, 5))
def test_an_unparsed_answer_is_never_better_than_a_wrong_one(kinds: list[str], spoilt: int) -> None:
    questions = [
        asked(str(number), "ek100_mir", f"v{number % 2}", list("abcde"), number % 5, relevance=[1.0] * 5)
        for number in range(len(kinds))
    ]
    given_answers = [
        answered(question, (question.answer_index or 0) + (kind == "wrong") - 5 * (kind == "wrong" and number % 5 == 4))
        for number, (question, kind) in enumerate(zip(questions, kinds, strict=True))
    ]
    number = spoilt % len(kinds)
    unparsed = [*given_answers]
    unparsed[number] = answered(questions[number], None)
    before, after = measured(given_answers, questions), measured(unparsed, questions)
    assert before.keys() == after.keys()
    assert all(after[name].value < before[name].value for name in before)


def test_the_golden_scores() -> None:
    golden = json.loads(shared_path("data/golden/mcq5.json").read_text(encoding="utf-8"))
    question = asked("q", "ek100_mir", "v", list("abcde"), 0)
    rows = [scored(question, scores) for scores in numpy.random.default_rng(0).random((9668, 5)).tolist()]
    found = {measure.name: measure for measure in rank_measures("ek100_mir", rows, {})}
    assert found["option_mAP"].value == pytest.approx(golden["AP_single_positive_mean (=MRR)"], abs=1e-9)
    assert found["option_nDCG"].value == pytest.approx(golden["nDCG_single_positive 1/log2(1+rank)"], abs=1e-9)
    assert found["option_mAP"].chance == pytest.approx(golden["theory_chance_5"]["MRR"])
    assert found["option_nDCG"].chance == pytest.approx(golden["theory_chance_5"]["nDCG"])


def test_other_tasks_have_none() -> None:
    question = asked("q", "egoplan", "v", ["a", "b"], 0)
    assert rank_measures("egoplan", [answered(question, 0)], {"q": question}) == []
    assert printed_values("egoplan", [answered(question, 0), answered(question, 1), answered(question, None)]) == [
        1,
        0,
        0,
    ]
