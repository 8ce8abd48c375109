"""Scores, tables and prompts against values worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.failures import Failure
from eval.metrics.scoring import best_option, score
from eval.prompts import PROMPTS, choice_turn, open_turn
from eval.report import write_report
from exo2ego.errors import EvaluationError
from exo2ego.intervals import clustered_interval
from exo2ego.records import AnswerMode, Prediction, Question
from exo2ego.storage import write_jsonl


def prediction(number: int, predicted: int | None, answer: int | None, video: str = "v", **more: object) -> Prediction:
    values = {
        "id": f"q{number}",
        "task": "inter",
        "mode": "generate",
        "prompt_hash": "h",
        "predicted_index": predicted,
        "answer_index": answer,
        "num_options": 4,
        "video": video,
        "seconds": 0.1,
        **more,
    }
    return Prediction.model_validate(values)


def failure(number: int, mode: AnswerMode = "generate", task: str = "inter") -> Failure:
    return Failure(id=f"q{number}", task=task, mode=mode, video="x", reason="missing", detail="")


ROWS = [
    prediction(0, 1, 1, "a"),
    prediction(1, 0, 2, "a"),
    prediction(2, None, 3, "b"),  # unparsed: wrong
    prediction(3, 2, 2, "b", num_options=2 + 1),
    prediction(4, 0, None, "c"),  # unlabelled: not scored
]


def test_hand_computed_score() -> None:
    (found,) = score(ROWS, [failure(5)], {})
    assert (found.task, found.mode, found.num_questions, found.num_scored) == ("inter", "generate", 6, 4)
    assert (found.num_correct, found.accuracy, found.num_videos) == (2, 0.5, 2)
    assert found.chance == pytest.approx((3 / 4 + 1 / 3) / 4)
    assert (found.num_unparsed, found.num_failed, found.num_unlabelled) == (1, 1, 1)
    assert found.truth_positions == [0, 1, 2, 1]
    assert found.predicted_positions == [2, 1, 1, 0]
    assert found.interval == clustered_interval([True, False, False, True], ["a", "a", "b", "b"])


@pytest.mark.parametrize(
    ("predicted", "scores"), [(1, [2.0, 1.0]), (0, [1.0, 1.0]), (None, [2.0, 1.0]), (0, [1.0, 2.0])]
)
def test_a_prediction_that_its_own_scores_deny_is_refused(predicted: int | None, scores: list[float]) -> None:
    row = prediction(7, predicted, 1, mode="letter", option_scores=scores, num_options=2)
    with pytest.raises(EvaluationError, match=r"question q7 \(letter\): predicted_index is "):
        score([row], [], {})


def test_tasks_and_modes_are_apart() -> None:
    rows = [prediction(0, 1, 1), prediction(0, 0, 1, mode="letter"), prediction(1, 1, 1, task="intra")]
    found = score(rows, [failure(9, "likelihood", "hard")], {})
    assert [(row.task, row.mode, row.accuracy) for row in found] == [
        ("hard", "likelihood", None),
        ("inter", "generate", 1.0),
        ("inter", "letter", 0.0),
        ("intra", "generate", 1.0),
    ]


@given(st.permutations(ROWS))
def test_order_does_not_matter(rows: list[Prediction]) -> None:
    assert score(rows, [], {}) == score(ROWS, [], {})


def test_questions_without_answer_are_counted() -> None:
    asked = {
        f"q{number}": Question.model_validate(
            {"id": f"q{number}", "task": task, "source": "s", "video": "v", "question": "?", "options": ["a", "b"]}
        )
        for number, task in enumerate(["inter"] * 9 + ["other"] * 3)
    }
    (found,) = score(ROWS, [failure(5)], asked)
    assert (found.num_questions, found.num_unanswered) == (9, 3)


def test_report_as_text(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "predictions.jsonl", (row.to_row() for row in ROWS))
    write_jsonl(tmp_path / "failures.jsonl", [failure(5).to_row()])
    write_report(tmp_path)
    lines = (tmp_path / "results.md").read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| task |"))
    assert lines[start : start + 3] == [
        "| task | mode | measure | value | 95 % interval | chance | questions | videos | unparsed | failed "
        "| unlabelled | unanswered |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| inter | generate | accuracy | 50.0 | 0.6–99.4 | 27.1 | 4 | 2 | 1 (20.0 %) | 1 | 1 | 0 |",
    ]
    assert "| inter | generate | truth | 0 | 1 | 2 | 1 |" in lines
    assert "| inter | generate | prediction | 2 | 1 | 1 | 0 |" in lines


@pytest.mark.parametrize(
    ("scores", "best"), [([-2.0, -1.0, -3.0], 1), ([-1.0, -1.0, -3.0], None), ([0.0], 0), ([-5.0, -1.0, -1.0], None)]
)
def test_best_option_is_never_drawn_from_a_tie(scores: list[float], best: int | None) -> None:
    assert best_option(scores) == best


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_scores_must_be_numbers(broken: float) -> None:
    with pytest.raises(EvaluationError, match="not finite"):
        best_option([-1.0, broken])


GOLDEN = Path(__file__).with_name("golden_prompts.txt")


def test_prompts_are_as_written_down() -> None:
    options = ["C picks up the cup.", "C opens the box."]
    blocks = []
    for name, template in PROMPTS.items():
        blocks.append(f"== {name}, options ==\n{choice_turn(template, 'What am I doing?', options)}\n")
        blocks.append(f"== {name}, open ==\n{open_turn(template, 'What am I doing?')}\n")
    assert "\n".join(blocks) == GOLDEN.read_text(encoding="utf-8"), "a changed text needs a new version of the prompt"
