"""Puts every question to a model: a clip is decoded and encoded once, an answer is written as soon as it exists."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy
from numpy.typing import NDArray

from eval.answerers.protocol import Answerer, EncodedVideo, ScoreRequest, TimedEncoder
from eval.parsing import parse_choice
from eval.predictions import Failure, PredictionStore
from eval.prompts import PromptTemplate, choice_turn, open_turn
from eval.questions import by_clip
from eval.scoring import best_option
from exo2ego.console import track
from exo2ego.data.prompting import LETTERS
from exo2ego.data.spans import Span
from exo2ego.data.video import read_timed_frames
from exo2ego.errors import DataError, EvaluationError, ServiceError, VideoError
from exo2ego.model.options import View
from exo2ego.parallel import in_order
from exo2ego.records import AnswerMode, Prediction, Question
from exo2ego.storage import hash_text

if TYPE_CHECKING:
    from exo2ego.data.clip_store import ClipStore

SCORING_MODES: tuple[AnswerMode, ...] = ("likelihood", "letter")
"""Those that compare options, in the order in which they are asked."""
GREY = 128
"""The colour of a control run's pictures, of 0 to 255."""


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
    blind: bool = False
    """Show grey pictures: what is right without looking (a control)."""
    shuffle_frames: bool = False
    """Show the clip's frames in another order, fixed by seed and clip: what is right without time (a control)."""
    num_workers: int = 2
    """Threads that decode ahead."""
    process_index: int = 0
    num_processes: int = 1
    """Processes that share the clips."""
    shows_options: bool = True
    """Whether the form of the prompts can show options."""

    def modes_of(self, question: Question) -> tuple[AnswerMode, ...]:
        """Returns how a question is answered: an open one by generated text alone."""
        return self.modes if question.options else ("generate",)


def answer_all(questions: Sequence[Question], answerer: Answerer, plan: AnswerPlan, store: PredictionStore) -> None:
    """Answers what `store` does not hold yet; with several processes, this one's share of it.

    Raises `EvaluationError` when a stored answer belongs to another prompt, `DataError` when too many videos are
    unreadable.
    """
    _require_same_prompts(questions, answerer, plan, store)
    clips = [clip for about in by_clip(questions) if (clip := _asked(about, plan, store)).missing]
    clips = clips[plan.process_index :: plan.num_processes]
    num_failed = 0
    for clip, shown in read_ahead(clips, answerer, plan):
        if isinstance(shown, VideoError):
            num_failed += len({question.question_id for question, _ in clip.missing})
            _record_failures(clip.missing, shown, store)
            _require_within_budget(num_failed, len(questions), plan, shown)
            continue
        answered: set[tuple[str, AnswerMode]] = set()
        try:
            for prediction in _answers(clip, _encode(shown, answerer), answerer, plan):
                store.add(prediction)
                answered.add((prediction.question_id, prediction.mode))
        except ServiceError as error:  # an endpoint's: the questions after it are worth a try
            left = [(question, mode) for question, mode in clip.missing if (question.question_id, mode) not in answered]
            fault = VideoError(str(left[0][0].video), "endpoint", str(error))
            num_failed += len({question.question_id for question, _ in left})
            _record_failures(left, fault, store)
            _require_within_budget(num_failed, len(questions), plan, fault)


class TimedFrames(NamedTuple):
    """What is shown of a clip."""

    frames: NDArray[numpy.uint8]
    """[T, H, W, 3]"""
    times_s: list[float]
    """Of every frame, in seconds from the start of the clip."""


class AskedClip(NamedTuple):
    """The questions about one clip."""

    questions: Sequence[Question]
    missing: list[tuple[Question, AnswerMode]]
    """Those still to be answered, and how."""


def _asked(about: Sequence[Question], plan: AnswerPlan, store: PredictionStore) -> AskedClip:
    wanted = [(question, mode) for question in about for mode in plan.modes_of(question)]
    return AskedClip(about, [(asked, mode) for asked, mode in wanted if (asked.question_id, mode) not in store.done])


def read_ahead(
    clips: Sequence[AskedClip], answerer: Answerer, plan: AnswerPlan
) -> Iterator[tuple[AskedClip, TimedFrames | VideoError]]:
    """Yields every clip's questions with its frames, or why it cannot be read, in order.

    Threads decode a few clips ahead while the model answers: decoding releases Python's lock.
    """

    def read(clip: AskedClip) -> TimedFrames | VideoError:
        try:
            return _frames(clip.questions[0], answerer, plan)
        except VideoError as error:
            return error

    yield from zip(clips, track(in_order(read, clips, plan.num_workers), "clips", total=len(clips)), strict=True)


def answer_first(questions: Sequence[Question], answerer: Answerer, plan: AnswerPlan) -> list[tuple[str, Prediction]]:
    """Returns prompt and answer of the first question in every mode; nothing is written."""
    question = questions[0]
    clip = AskedClip([question], [(question, mode) for mode in plan.modes_of(question)])
    answers = _answers(clip, _encode(_frames(question, answerer, plan), answerer), answerer, plan)
    return [(_prompt(question, answer.mode, answerer, plan), answer) for answer in answers]


def _encode(clip: TimedFrames, answerer: Answerer) -> EncodedVideo:
    """Encodes a clip, with the times of its frames where the model is told them."""
    if isinstance(answerer, TimedEncoder):
        return answerer.encode_timed(clip.frames, clip.times_s)
    return answerer.encode(clip.frames)


def _frames(question: Question, answerer: Answerer, plan: AnswerPlan) -> TimedFrames:
    """Returns the frames of a question's clip, or what a control run shows in their place."""
    span = Span.of(question, shown_video(question, answerer.view, plan.seed))
    if plan.clip_store is not None:
        stored = plan.clip_store.read(span)
        frames, times_s = stored.frames, list(stored.timestamps_s)
    else:
        frames, times_s = read_timed_frames(
            plan.data_root / span.video,
            span.start_s,
            span.end_s,
            answerer.num_frames,
            frame_rate=span.frame_rate,
            observation_s=span.observation_s,
            within=plan.data_root,
        )
    times_s = [max(0.0, time_s - (span.start_s or 0.0)) for time_s in times_s]
    if plan.blind:
        return TimedFrames(numpy.full_like(frames, GREY), times_s)
    if plan.shuffle_frames:
        order = list(range(len(frames)))
        random.Random(f"{plan.seed}/{span.video}/{span.start_s}").shuffle(order)
        return TimedFrames(frames[order], times_s)
    return TimedFrames(frames, times_s)


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


def _answers(clip: AskedClip, video: EncodedVideo, answerer: Answerer, plan: AnswerPlan) -> Iterator[Prediction]:
    """Yields the missing answers to questions about one clip: mode by mode those that score options, then the spoken.

    In a mode that misses any, all questions about the clip are scored again: what stands in one pass changes the last
    digits of its numbers, which must not depend on where an earlier run was stopped.
    """
    missing = {(question.question_id, mode) for question, mode in clip.missing}
    with_options = sorted((asked for asked in clip.questions if asked.options), key=lambda asked: asked.question_id)
    for scoring_mode in SCORING_MODES:
        if not any(mode == scoring_mode for _, mode in missing):
            continue
        began = time.perf_counter()
        requests = [_request(question, scoring_mode, answerer, plan) for question in with_options]
        all_scores = answerer.score(video, requests)
        seconds = (time.perf_counter() - began) / len(requests)
        for question, request, scores in zip(with_options, requests, all_scores, strict=True):
            _require_finite(scores, question, scoring_mode)
            if (question.question_id, scoring_mode) in missing:
                given: dict[str, Any] = {"option_scores": scores, "predicted_index": best_option(scores)}
                yield _prediction(question, scoring_mode, request.prompt, seconds, given)
    for question in (question for question, mode in clip.missing if mode == "generate"):
        began = time.perf_counter()
        prompt = _prompt(question, "generate", answerer, plan)
        output = answerer.generate(video, prompt)
        chosen = parse_choice(output, question.options).index if question.options else None
        given = {"raw_output": output, "predicted_index": chosen}
        yield _prediction(question, "generate", prompt, time.perf_counter() - began, given)


def _require_finite(scores: Sequence[float], question: Question, mode: AnswerMode) -> None:
    if not all(map(math.isfinite, scores)):
        raise EvaluationError(
            f"question {question.question_id} ({mode}): option scores are not finite: {list(scores)}; "
            "the model's weights or input are damaged"
        )


def _request(question: Question, mode: AnswerMode, answerer: Answerer, plan: AnswerPlan) -> ScoreRequest:
    prompt = _prompt(question, mode, answerer, plan)
    if mode == "letter":
        return ScoreRequest(prompt, tuple(LETTERS[: len(question.options)]), "letters")
    return ScoreRequest(prompt, tuple(question.options), "options")


def _prediction(
    question: Question, mode: AnswerMode, prompt: str, seconds: float, given: Mapping[str, Any]
) -> Prediction:
    return Prediction(
        id=question.question_id,
        task=question.task,
        mode=mode,
        prompt_hash=_prompt_hash(prompt, question.options),
        answer_index=question.answer_index,
        num_options=len(question.options),
        video=question.video,
        seconds=seconds,
        **given,
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
            f"{num_failed} of {num_questions} questions cannot be answered (unreadable video or failing endpoint), "
            f"{plan.max_failures} may; the last: {last}; all are listed in failures.jsonl of the output folder. "
            "Repair what failed and run again, or raise max_failure_rate"
        )
