"""Puts every question to a model: a clip is decoded and encoded once, an answer is written as soon as it exists."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
from numpy.typing import NDArray

from eval.answerers.protocol import Answerer, EncodedVideo
from eval.parsing import parse_choice
from eval.predictions import Failure, PredictionStore
from eval.prompts import PromptTemplate, choice_turn, open_turn
from eval.questions import by_clip
from eval.scoring import best_option
from exo2ego.console import track
from exo2ego.data.prompting import LETTERS
from exo2ego.data.spans import Span
from exo2ego.data.video import read_frames
from exo2ego.errors import DataError, EvaluationError, VideoError
from exo2ego.model.options import View
from exo2ego.records import AnswerMode, Prediction, Question
from exo2ego.storage import hash_text

if TYPE_CHECKING:
    from exo2ego.data.clip_store import ClipStore


@dataclass(frozen=True)
class AnswerPlan:
    """How questions are put."""

    modes: tuple[AnswerMode, ...]
    choice_prompt: PromptTemplate
    likelihood_prompt: PromptTemplate
    open_prompt: PromptTemplate
    data_root: Path
    seed: int
    """Chooses among a question's exo videos."""
    max_failures: int
    """Questions that may stay unanswered because their video is unreadable."""
    clip_store: ClipStore | None = None
    """Read instead of the videos."""
    shows_options: bool = True
    """Whether the form of the prompts can show options."""

    def modes_of(self, question: Question) -> tuple[AnswerMode, ...]:
        """Returns how a question is answered: an open one by generated text alone."""
        return self.modes if question.options else ("generate",)


def answer_all(questions: Sequence[Question], answerer: Answerer, plan: AnswerPlan, store: PredictionStore) -> None:
    """Answers what `store` does not hold yet.

    Raises `EvaluationError` when a stored answer belongs to another prompt, `DataError` when too many videos are
    unreadable.
    """
    _require_same_prompts(questions, answerer, plan, store)
    num_failed = 0
    for clip_questions in track(by_clip(questions), "clips"):
        missing = [
            (question, mode)
            for question in clip_questions
            for mode in plan.modes_of(question)
            if (question.question_id, mode) not in store.done
        ]
        if not missing:
            continue
        try:
            frames = _frames(clip_questions[0], answerer, plan)
        except VideoError as error:
            num_failed += len({question.question_id for question, _ in missing})
            _record_failures(missing, error, store)
            _require_within_budget(num_failed, len(questions), plan, error)
            continue
        video = answerer.encode(frames)
        for question, mode in missing:
            store.add(_answer(question, mode, video, answerer, plan))


def answer_first(questions: Sequence[Question], answerer: Answerer, plan: AnswerPlan) -> list[tuple[str, Prediction]]:
    """Returns prompt and answer of the first question in every mode; nothing is written."""
    question = questions[0]
    video = answerer.encode(_frames(question, answerer, plan))
    return [
        (_prompt(question, mode, answerer, plan), _answer(question, mode, video, answerer, plan))
        for mode in plan.modes_of(question)
    ]


def _frames(question: Question, answerer: Answerer, plan: AnswerPlan) -> NDArray[numpy.uint8]:
    span = Span.of(question, shown_video(question, answerer.view, plan.seed))
    if plan.clip_store is not None:
        return plan.clip_store.read(span).frames
    return read_frames(
        plan.data_root / span.video,
        span.start_s,
        span.end_s,
        answerer.num_frames,
        frame_rate=span.frame_rate,
        observation_s=span.observation_s,
        within=plan.data_root,
    )


def shown_video(question: Question, view: View, seed: int) -> str:
    """Returns the video to show: the question's own, or for `exo` one of its exo videos chosen by seed and clip."""
    if view != "exo":
        return question.video
    videos = question.meta.get("exo_videos")
    if not videos:
        raise EvaluationError(f"question {question.question_id} has no meta.exo_videos, which view=exo shows")
    return str(random.Random(f"{seed}/{question.video}/{question.start_s}").choice(videos))


def _prompt(question: Question, mode: AnswerMode, answerer: Answerer, plan: AnswerPlan) -> str:
    if not question.options:
        return answerer.render(open_turn(plan.open_prompt, question.question))
    if mode == "likelihood":
        return answerer.render(open_turn(plan.likelihood_prompt, question.question))
    return answerer.render(choice_turn(plan.choice_prompt, question.question, question.options))


def hash_of_prompts(questions: Sequence[Question], answerer: Answerer, plan: AnswerPlan) -> str:
    """Returns a hash of every question's prompts, of those that show the options and of those that do not."""
    modes: tuple[AnswerMode, ...] = ("likelihood", "letter") if plan.shows_options else ("likelihood",)
    rendered = (_prompt(question, mode, answerer, plan) for question in questions for mode in modes)
    return hash_text("\n".join(map(hash_text, rendered)))


def _prompt_hash(prompt: str, options: Sequence[str]) -> str:
    return hash_text(json.dumps([prompt, *options]))


def _answer(
    question: Question, mode: AnswerMode, video: EncodedVideo, answerer: Answerer, plan: AnswerPlan
) -> Prediction:
    began = time.perf_counter()
    prompt = _prompt(question, mode, answerer, plan)
    output: str | None = None
    scores: list[float] | None = None
    if mode == "generate":
        output = answerer.generate(video, prompt)
        chosen = parse_choice(output, question.options).index if question.options else None
    elif mode == "letter":
        scores = answerer.score_letters(video, prompt, LETTERS[: len(question.options)])
        chosen = best_option(scores)
    else:
        scores = answerer.score_options(video, prompt, question.options)
        chosen = best_option(scores)
    return Prediction(
        id=question.question_id,
        task=question.task,
        mode=mode,
        prompt_hash=_prompt_hash(prompt, question.options),
        raw_output=output,
        option_scores=scores,
        predicted_index=chosen,
        answer_index=question.answer_index,
        num_options=len(question.options),
        video=question.video,
        seconds=time.perf_counter() - began,
    )


def _require_same_prompts(
    questions: Sequence[Question], answerer: Answerer, plan: AnswerPlan, store: PredictionStore
) -> None:
    for question in questions:
        for mode in plan.modes_of(question):
            former = store.done.get((question.question_id, mode))
            prompt = _prompt(question, mode, answerer, plan) if former else ""
            if former and former.prompt_hash != _prompt_hash(prompt, question.options):
                raise EvaluationError(
                    f"{store.folder}: question {question.question_id} was answered to another prompt ({mode}); "
                    "answers to different prompts are never mixed: give a new folder as output=…"
                )


def _record_failures(missing: Sequence[tuple[Question, AnswerMode]], error: VideoError, store: PredictionStore) -> None:
    for question, mode in missing:
        store.fail(
            Failure(
                id=question.question_id,
                task=question.task,
                mode=mode,
                video=error.path,
                reason=error.reason,
                detail=error.detail,
            )
        )


def _require_within_budget(num_failed: int, num_questions: int, plan: AnswerPlan, last: VideoError) -> None:
    if num_failed > plan.max_failures:
        raise DataError(
            f"{num_failed} of {num_questions} questions cannot be answered because their video is unreadable, "
            f"{plan.max_failures} may; the last: {last}; all are listed in failures.jsonl of the output folder. "
            "Repair the videos or raise max_failure_rate"
        )
