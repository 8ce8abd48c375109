"""The evaluator with models that are no models: any object that offers what an `Answerer` offers can be evaluated."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from eval.answer_plan import AnswerPlan
from eval.answerers.protocol import Answerer, ScoreRequest
from eval.answering import answer_all
from eval.failures import Failure
from eval.metrics.scoring import TaskScore
from eval.predictions import PredictionStore, claim, merge_parts, read_failures, read_predictions
from eval.prompts import PROMPTS
from eval.report import write_report
from eval.shown_clips import another_order, require_exo_videos, shown_video
from exo2ego.errors import EvaluationError
from exo2ego.model.options import View
from exo2ego.records import AnswerMode, Question
from tests.eval.evaluation_setup import NUM_TAKES, question_row, write_video
from tests.eval.tiny_model import NARRATIONS

QUESTIONS = [Question.model_validate(row) for row in map(question_row, range(15))]
MODES: tuple[AnswerMode, ...] = ("likelihood", "letter", "generate")


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

    def score(self, video: Any, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        for request in requests:
            assert ("Options" in request.prompt) == (request.kind == "letters")
            if request.kind == "letters":
                assert "".join(request.texts) == "ABCDE"
                assert "(E) C pushes the white plate" in request.prompt
        return [self.scores for _ in requests]

    def generate(self, video: Any, prompt: str) -> str:
        return self.text


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for take in range(NUM_TAKES):
        write_video(root / f"take{take}" / "ego.mp4", seed=take)
    return root


def evaluate(
    answerer: Answerer, videos: Path, output: Path, questions: Sequence[Question] = QUESTIONS, **changes: Any
) -> dict[str, TaskScore]:
    plan = AnswerPlan(
        modes=MODES,
        choice_prompt=PROMPTS["first_person@1"],
        likelihood_prompt=PROMPTS["question_only@1"],
        open_prompt=PROMPTS["short_answer@1"],
        data_root=videos,
        seed=0,
        **{"max_failures": 0, **changes},
    )
    with PredictionStore(output, {"model": answerer.identity}, {}) as store:
        answer_all(questions, answerer, plan, store)
    return {row.mode: row for row in write_report(output).runs[0].scores}


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


@dataclass
class Looking(Stub):
    """Keeps what it was shown."""

    def __post_init__(self) -> None:
        self.shown: list[NDArray[numpy.uint8]] = []

    def encode(self, frames: NDArray[numpy.uint8]) -> Any:
        self.shown.append(frames)
        return None


def test_controls_show_nothing_or_another_order(videos: Path, tmp_path: Path) -> None:
    seeing, blind, shuffled = (Looking([-1.0, -2.0, -3.0, -4.0, -5.0], num_frames=2) for _ in range(3))
    evaluate(seeing, videos, tmp_path / "seeing")
    evaluate(blind, videos, tmp_path / "blind", blind=True)
    evaluate(shuffled, videos, tmp_path / "shuffled", shuffle_frames=True)
    assert len(seeing.shown) == NUM_TAKES
    assert all((frames == 128).all() and frames.shape == (2, 48, 48, 3) for frames in blind.shown)
    orders = [
        [[(frame == own).all() for own in seen].index(True) for frame in frames]
        for frames, seen in zip(shuffled.shown, seeing.shown, strict=True)
    ]
    assert {tuple(order) for order in orders} == {(1, 0)}
    again = Looking([-1.0, -2.0, -3.0, -4.0, -5.0])
    evaluate(again, videos, tmp_path / "again", shuffle_frames=True)
    assert all((one == other).all() for one, other in zip(again.shown, shuffled.shown, strict=True))


@pytest.mark.parametrize("num_workers", [0, 1, 5])
def test_clips_come_in_order_however_many_are_read_ahead(videos: Path, tmp_path: Path, num_workers: int) -> None:
    looking = Looking([-1.0, -2.0, -3.0, -4.0, -5.0])
    evaluate(looking, videos, tmp_path / str(num_workers), num_workers=num_workers)
    rows = [row.question_id for row in read_predictions(tmp_path / str(num_workers))]
    assert rows[: len(MODES) * 5 : len(MODES)] != []
    evaluate(Looking([-1.0] * 5), videos, tmp_path / "plain", num_workers=0)
    assert rows == [row.question_id for row in read_predictions(tmp_path / "plain")]


def test_processes_share_the_clips_and_their_parts_become_one_file(videos: Path, tmp_path: Path) -> None:
    scores = [-1.0, -2.0, -3.0, -4.0, -5.0]
    alone = evaluate(Stub(scores), videos, tmp_path / "alone")
    folder = tmp_path / "shared"
    claim(folder, {"model": "stub"}, {}, QUESTIONS)
    for index in range(2):
        share = AnswerPlan(
            modes=MODES,
            choice_prompt=PROMPTS["first_person@1"],
            likelihood_prompt=PROMPTS["question_only@1"],
            open_prompt=PROMPTS["short_answer@1"],
            data_root=videos,
            seed=0,
            max_failures=0,
            process_index=index,
            num_processes=2,
        )
        with PredictionStore(folder, {"model": "stub"}, {}, part=index) as store:
            answer_all(QUESTIONS, Stub(scores), share, store)
    with (folder / "predictions.jsonl.part-1").open("a", encoding="utf-8") as stream:
        stream.write('{"id": "inter/take0/7", "ta')  # a kill in the middle of a line
    merge_parts(folder)
    assert not list(folder.glob("*.part-*"))
    assert {row.mode: row for row in write_report(folder).runs[0].scores} == alone
    merge_parts(folder)  # nothing left to do
    rows = read_predictions(folder)
    assert len(rows) == len(QUESTIONS) * len(MODES)
    # other processes go on where these were stopped, before the parts were put together
    with PredictionStore(folder, {"model": "stub"}, {}, part=0) as store:
        answer_all(QUESTIONS, Stub([-9.0] * 5), share, store)
    failed = Failure(id="inter/take0/0", task="t", mode="letter", video="v", reason="missing", detail="")
    for part in (None, 1):
        with PredictionStore(folder, {"model": "stub"}, {}, QUESTIONS, part=part) as store:
            store.fail(failed)
    claim(folder, {"model": "stub"}, {}, QUESTIONS)
    assert read_predictions(folder) == rows
    assert read_failures(folder) == [], "failed questions are tried again in every run"


@given(num_frames=st.integers(2, 40), key=st.text(max_size=8))
def test_another_order_is_never_the_frames_own(num_frames: int, key: str) -> None:
    order = another_order(num_frames, key)
    assert sorted(order) == list(range(num_frames)) != order
    assert order == another_order(num_frames, key)


@pytest.mark.parametrize(
    ("metas", "message"),
    [
        ([{"exo_videos": ["a.mp4"]}, {}], "question 1 has no list of videos"),
        ([{"exo_videos": "a.mp4"}], "question 0 has no list of videos"),
        ([{"exo_videos": []}], "question 0 has no list of videos"),
        ([{"exo_videos": ["a.mp4"]}, {"exo_videos": ["b.mp4"]}], "questions 0 and 1 are about one clip"),
    ],
)
def test_exo_videos_are_looked_at_before_the_first_clip(metas: list[dict[str, Any]], message: str) -> None:
    questions = [Question(**question_row(0, id=str(number), meta=meta)) for number, meta in enumerate(metas)]
    with pytest.raises(EvaluationError, match=message):
        require_exo_videos([questions])
    require_exo_videos([[question] for question in questions if question.meta == {"exo_videos": ["a.mp4"]}])


def test_a_question_that_the_model_fails_at_costs_no_other(videos: Path, tmp_path: Path) -> None:
    class FailsAtLongOnes(Looking):
        def score(self, video: Any, requests: Sequence[ScoreRequest]) -> list[list[float]]:
            if any("very long" in request.prompt for request in requests):
                raise RuntimeError("too long")
            return super().score(video, requests)

    texts = ("a", "very long", "b")
    asked = [Question(**question_row(0, id=text, question=text)) for text in texts]
    model = FailsAtLongOnes([-1.0, -2.0, -3.0, -4.0, -5.0])
    evaluate(model, videos, tmp_path, asked, max_failures=1)
    scored = {(row.question_id, row.mode) for row in read_predictions(tmp_path) if row.mode != "generate"}
    assert scored == {(text, mode) for text in ("a", "b") for mode in ("likelihood", "letter")}
    failed = {(row.question_id, row.mode, row.reason) for row in read_failures(tmp_path)}
    assert failed == {("very long", mode, "model") for mode in ("likelihood", "letter")}


def test_what_threads_prepare_is_what_is_encoded(videos: Path, tmp_path: Path) -> None:
    class Prepares(Looking):
        def prepare(self, frames: NDArray[numpy.uint8]) -> Any:
            assert threading.current_thread() is not threading.main_thread()
            return frames.astype(numpy.float32) / 255

        def encode_prepared(self, prepared: Any) -> Any:
            self.shown.append(prepared)

    plain, prepares = Looking([-1.0, -2.0, -3.0, -4.0, -5.0]), Prepares([-1.0, -2.0, -3.0, -4.0, -5.0])
    evaluate(plain, videos, tmp_path / "plain")
    evaluate(prepares, videos, tmp_path / "prepared")
    for prepared, frames in zip(prepares.shown, plain.shown, strict=True):
        assert prepared == pytest.approx(frames / 255)


def test_what_threads_cannot_prepare_is_a_counted_failure(videos: Path, tmp_path: Path) -> None:
    class Refuses(Looking):
        def prepare(self, frames: NDArray[numpy.uint8]) -> Any:
            raise ValueError("a picture this thin cannot be resized")

        def encode(self, frames: NDArray[numpy.uint8]) -> Any:
            return self.prepare(frames)

        def encode_prepared(self, prepared: Any) -> Any:
            raise AssertionError("nothing was prepared")

    evaluate(Refuses([-1.0, -2.0, -3.0, -4.0, -5.0]), videos, tmp_path, max_failures=15)
    assert read_predictions(tmp_path) == []
    failures = read_failures(tmp_path)
    assert {(row.question_id, row.mode) for row in failures} == {
        (row.question_id, m) for row in QUESTIONS for m in MODES
    }
    assert "a picture this thin" in failures[0].detail
