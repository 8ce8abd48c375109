"""What a question scores depends on its clip and the mode alone, not on where an earlier run was stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from eval.answer_plan import AnswerPlan
from eval.answerers.exo2ego import Exo2EgoAnswerer
from eval.answering import answer_all
from eval.predictions import PredictionStore, read_predictions
from eval.prompts import PROMPTS
from exo2ego.records import AnswerMode, Prediction, Question
from tests.eval.evaluation_setup import NUM_TAKES, question_row, write_video
from tests.eval.tiny_model import NARRATIONS, tiny_model

ASKED = ["Which description?", "What does the camera wearer do with the left hand?", "Why?", "What happens next in it?"]
QUESTIONS = [
    Question.model_validate(
        question_row(
            number, question=ASKED[number % 4], options=NARRATIONS[: 2 + number % 4], answer_index=0, answer_text=None
        )
    )
    for number in range(12)
]
MODES: tuple[AnswerMode, ...] = ("likelihood", "letter", "generate")
ANSWERER = Exo2EgoAnswerer(*tiny_model(), max_new_tokens=3)


class StoppedError(Exception):
    """A kill."""


class StoppingStore(PredictionStore):
    """Takes so many answers."""

    room = 0

    def add(self, prediction: Prediction) -> None:
        if not self.room:
            raise StoppedError
        self.room -= 1
        super().add(prediction)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> AnswerPlan:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("videos")
    for take in range(NUM_TAKES):
        write_video(root / f"take{take}" / "ego.mp4", seed=take)
    return AnswerPlan(
        modes=MODES,
        choice_prompt=PROMPTS["first_person@1"],
        likelihood_prompt=PROMPTS["question_only@1"],
        open_prompt=PROMPTS["short_answer@1"],
        data_root=root,
        seed=0,
        max_failures=0,
        num_workers=0,
    )


def answer(plan: AnswerPlan, folder: Path, questions: Sequence[Question] = QUESTIONS) -> dict[tuple[str, str], Any]:
    """Answers what is missing; returns every answer in the folder without its time."""
    with PredictionStore(folder, {"model": "tiny"}, {}, QUESTIONS) as store:
        answer_all(questions, ANSWERER, plan, store)
    rows = [row.to_row() for row in read_predictions(folder)]
    return {(row["id"], row["mode"]): {**row, "seconds": 0} for row in rows}


@pytest.fixture(scope="module")
def whole(plan: AnswerPlan, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Any]:
    return answer(plan, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("room", range(1, 12))
def test_a_run_stopped_between_two_questions_of_a_clip_continues_to_the_same_bits(
    plan: AnswerPlan, whole: dict[tuple[str, str], Any], tmp_path: Path, room: int
) -> None:
    with PredictionStore(tmp_path, {"model": "tiny"}, {}, QUESTIONS) as store:
        store.__class__ = StoppingStore
        store.room = room  # type: ignore[attr-defined]
        with pytest.raises(StoppedError):
            answer_all(QUESTIONS, ANSWERER, plan, store)
    assert len(read_predictions(tmp_path)) == room
    assert answer(plan, tmp_path) == whole


def test_a_mode_added_later_scores_the_same_bits(
    plan: AnswerPlan, whole: dict[tuple[str, str], Any], tmp_path: Path
) -> None:
    answer(replace(plan, modes=("letter",)), tmp_path)
    answer(replace(plan, modes=("generate", "letter")), tmp_path)
    assert answer(plan, tmp_path) == whole


def test_the_order_of_the_questions_changes_no_bit(
    plan: AnswerPlan, whole: dict[tuple[str, str], Any], tmp_path: Path
) -> None:
    assert answer(plan, tmp_path, QUESTIONS[::-1]) == whole
