"""What a model is told of the times of a clip's frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
from numpy.typing import NDArray
from PIL import Image

from eval.answer_plan import AnswerPlan
from eval.answerers.protocol import ScoreRequest
from eval.answering import answer_first
from eval.prompts import PROMPTS
from exo2ego.model.options import View
from exo2ego.records import Question
from tests.eval.evaluation_setup import question_row, write_video

NUM_FRAMES = 4


class TimeKeeper:
    """Remembers what it is told, and answers the first option."""

    identity = "timed"
    view: View = "ego"
    num_frames = NUM_FRAMES

    def __init__(self) -> None:
        self.told: list[float] = []
        self.seen: list[int] = []

    def render(self, turn: str) -> str:
        return turn

    def encode(self, frames: NDArray[numpy.uint8]) -> Any:
        raise AssertionError("it can be told the times")

    def encode_timed(self, frames: NDArray[numpy.uint8], times_s: Sequence[float]) -> Any:
        self.told = list(times_s)
        self.seen = frames[:, 0, 0, 0].tolist()

    def score(self, video: Any, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        return [[-float(number) for number in range(len(request.texts))] for request in requests]

    def generate(self, video: Any, prompt: str) -> str:
        return ""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "take0" / "ego.mp4", seed=0)
    (folder / "pictures").mkdir()
    for number in range(40):
        Image.fromarray(numpy.full((48, 48, 3), 5 * number, numpy.uint8)).save(folder / "pictures" / f"{number:03}.png")
    return folder


def told(root: Path, **changes: Any) -> TimeKeeper:
    plan = AnswerPlan(
        modes=("likelihood",),
        choice_prompt=PROMPTS["first_person@1"],
        likelihood_prompt=PROMPTS["question_only@1"],
        open_prompt=PROMPTS["short_answer@1"],
        data_root=root,
        seed=0,
        max_failures=0,
    )
    keeper = TimeKeeper()
    answer_first([Question.model_validate(question_row(0, **changes))], keeper, plan)
    return keeper


def test_seconds_from_the_start_of_the_clip(root: Path) -> None:
    keeper = told(root)
    assert keeper.told == pytest.approx(sorted(keeper.told))
    assert 0 <= keeper.told[0] < 0.25
    assert 0.75 <= keeper.told[-1] <= 1.0, "the clip is from 0.5 s to 1.5 s"


def test_pictures_with_a_rate_have_times(root: Path) -> None:
    keeper = told(root, video="pictures", frame_rate=10.0)
    assert [number / 5 for number in keeper.seen] == pytest.approx([10 * (0.5 + time_s) for time_s in keeper.told])


def test_pictures_without_a_rate_are_not_said_to_be_seconds_of_their_numbers(root: Path) -> None:
    keeper = told(root, video="pictures", start=None, end=None)
    assert keeper.seen[-1] / 5 > 30
    assert keeper.told == [0.0, 1.0, 2.0, 3.0]
