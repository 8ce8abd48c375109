"""The evaluator with models that are no models: any object that offers what an `Answerer` offers can be evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pytest
from numpy.typing import NDArray

from eval.answerers.protocol import Answerer
from eval.answering import AnswerPlan, answer_all, shown_video
from eval.predictions import PredictionStore
from eval.prompts import PROMPTS
from eval.report import write_report
from eval.scoring import TaskScore
from exo2ego.errors import EvaluationError
from exo2ego.model.options import View
from exo2ego.records import Question
from tests.eval.evaluation_setup import NUM_TAKES, question_row, write_video
from tests.eval.tiny_model import NARRATIONS

QUESTIONS = [Question.model_validate(row) for row in map(question_row, range(15))]
MODES = ("likelihood", "letter", "generate")


@dataclass
class Stub:
    """Scores and says what it is told, whatever it sees."""

    scores: list[float]
    text: str = ""
    identity: str = "stub"
    view: View = "ego"
    num_frames: int = 2

    def render(self, turn: str) -> str:
        return turn

    def encode(self, frames: NDArray[numpy.uint8]) -> Any:
        assert frames.shape == (2, 48, 48, 3)
        return None

    def score_options(self, video: Any, prompt: str, options: Sequence[str]) -> list[float]:
        assert "Options" not in prompt
        return self.scores

    def score_letters(self, video: Any, prompt: str, letters: Sequence[str]) -> list[float]:
        assert "".join(letters) == "ABCDE"
        assert "(E) C pushes the white plate" in prompt
        return self.scores

    def generate(self, video: Any, prompt: str) -> str:
        return self.text


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for take in range(NUM_TAKES):
        write_video(root / f"take{take}" / "ego.mp4", seed=take)
    return root


def evaluate(answerer: Answerer, videos: Path, output: Path) -> dict[str, TaskScore]:
    plan = AnswerPlan(MODES, PROMPTS["first_person@1"], PROMPTS["question_only@1"], videos, seed=0, max_failures=0)
    with PredictionStore(output, {"model": answerer.identity}, {}) as store:
        answer_all(QUESTIONS, answerer, plan, store)
    return {row.mode: row for row in write_report(output)}


def test_a_constant_answer_is_right_as_often_as_its_position(videos: Path, tmp_path: Path) -> None:
    found = evaluate(Stub([-3.0, -1.0, -2.0, -5.0, -4.0], f"I think {NARRATIONS[2]}."), videos, tmp_path)
    assert {mode: row.accuracy for mode, row in found.items()} == dict.fromkeys(MODES, 3 / 15)
    assert found["letter"].predicted_positions == [0, 15, 0, 0, 0]
    assert found["generate"].predicted_positions == [0, 0, 15, 0, 0]


def test_answers_that_choose_nothing_are_wrong_and_counted(videos: Path, tmp_path: Path) -> None:
    found = evaluate(Stub([-1.0] * 5, "C picks up something"), videos, tmp_path)
    assert {(row.accuracy, row.num_unparsed) for row in found.values()} == {(0.0, 15)}


def test_scores_that_are_no_numbers_stop_the_run(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="not finite"):
        evaluate(Stub([float("nan")] * 5), videos, tmp_path)


def test_all_questions_about_a_clip_share_an_exo_video() -> None:
    shown = {view: [shown_video(question, view, seed=0) for question in QUESTIONS] for view in ("ego", "exo")}
    assert shown["ego"] == [question.video for question in QUESTIONS]
    assert len(set(shown["exo"])) == NUM_TAKES
    other_seeds = {shown_video(QUESTIONS[0], "exo", seed) for seed in range(20)}
    assert other_seeds == {"take0/cam01.mp4", "take0/cam02.mp4"}
