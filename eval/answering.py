"""Puts every question to a model: a clip is decoded and encoded once, an answer is written as soon as it exists."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy
from numpy.typing import NDArray

from eval.answerers.protocol import Answerer, EncodedVideo, ScoreRequest, TimedEncoder
from eval.model_faults import EncodedClip, Fault, scores_of, text_of
from eval.parsing import parse_choice
from eval.predictions import FAILURES_FILE, Failure, PredictionStore
from eval.prompts import PromptTemplate, choice_turn, open_turn
from eval.questions import by_clip
from eval.reading_ahead import read_in_order
from eval.scoring import best_option
from exo2ego.console import console, track
from exo2ego.data.prompting import LETTERS, normal_form
from exo2ego.data.spans import Span
from exo2ego.data.video import read_timed_frames
from exo2ego.errors import DataError, EvaluationError, VideoError
from exo2ego.model.options import View
from exo2ego.records import AnswerMode, Prediction, Question
from exo2ego.storage import hash_text

if TYPE_CHECKING:
    from exo2ego.data.clip_store import ClipStore

SCORING_MODES: tuple[AnswerMode, ...] = ("likelihood", "letter")
"""Those that compare options, in the order in which they are asked."""
LONGEST_ROW_OF_FAULTS = 10
"""Clips in succession about which the model answers nothing: a broken model, a full GPU, an endpoint that is down."""
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
    """Questions that may stay unanswered: their video is unreadable, or the model or its endpoint fails at them."""
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
    longest_read_s: float = 900.0
    """Seconds after which a clip that threads read is given up: its decoder hangs."""
    shows_options: bool = True
    """Whether the form of the prompts can show options."""

    def modes_of(self, question: Question) -> tuple[AnswerMode, ...]:
        """Returns how a question is answered: an open one by generated text alone."""
        return self.modes if question.options else ("generate",)


def answer_all(questions: Sequence[Question], answerer: Answerer, plan: AnswerPlan, store: PredictionStore) -> None:
    """Answers what `store` does not hold yet; with several processes, this one's share of it.

    Raises `EvaluationError` when a stored answer belongs to another prompt or the model fails too often, `DataError`
    when too many videos are unreadable or the endpoint fails too often.
    """
    _require_same_prompts(questions, answerer, plan, store)
    _tell_of_repeated_options(questions)
    clips = [clip for about in by_clip(questions) if (clip := _asked(about, plan, store)).missing]
    clips = clips[plan.process_index :: plan.num_processes]
    budget = _FailureBudget(plan, len(questions), store)
    for clip, shown in read_ahead(clips, answerer, plan):
        failures: list[Failure] = []
        for outcome in _outcomes(clip, shown, answerer, plan):
            if isinstance(outcome, Failure):
                store.fail(outcome)
                failures.append(outcome)
            else:
                store.add(outcome)
        budget.check(failures, num_asked=len(clip.missing), is_unread=isinstance(shown, VideoError))


def _tell_of_repeated_options(questions: Sequence[Question]) -> None:
    repeated = [
        question.question_id
        for question in questions
        if len({normal_form(option) for option in question.options}) < len(question.options)
    ]
    if repeated:
        console.print(
            f"{len(repeated)} of {len(questions)} questions give an option twice, the first is {repeated[0]}: an "
            "answer by text cannot choose one of the two, so that it counts as wrong there; mend or remove them",
            markup=False,
        )


@dataclass
class _FailureBudget:
    """Says when a run with failures must stop, rather than end in hours with nothing."""

    plan: AnswerPlan
    num_questions: int
    store: PredictionStore
    clips_in_a_row: int = 0
    """Clips in succession about which the model answered nothing."""

    def check(self, failures: Sequence[Failure], *, num_asked: int, is_unread: bool) -> None:
        """Takes note of what failed of one clip.

        Raises `DataError` where videos or an endpoint, `EvaluationError` where the model failed too often.
        """
        if len(failures) < num_asked:
            self.clips_in_a_row = 0
        elif not is_unread:
            self.clips_in_a_row += 1
        if not failures:
            return
        last, num_failed = failures[0], self.store.count_failed()
        is_model = not is_unread and last.reason not in ("endpoint", "refused")
        kind = EvaluationError if is_model else DataError
        what = f"question {last.question_id} ({last.mode})" if is_model else last.video
        told = (
            f"{what}: {last.detail} [{last.reason}]; all are listed in {FAILURES_FILE} of the output folder. What was "
            "answered is kept"
        )
        if num_failed > self.plan.max_failures:
            raise kind(
                f"{num_failed} of {self.num_questions} questions cannot be answered (unreadable video, failing model "
                f"or endpoint), {self.plan.max_failures} may; the last: {told}: repair what failed and run again, or "
                "raise max_failure_rate"
            )
        if self.clips_in_a_row >= LONGEST_ROW_OF_FAULTS:
            raise kind(
                f"the model answered nothing about {self.clips_in_a_row} clips in a row; the last: {told}: repair what "
                "failed and run again"
            )


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

    def late(clip: AskedClip) -> VideoError:
        return VideoError(clip.questions[0].video, "timeout", f"was not read within {plan.longest_read_s:g} s")

    shown = read_in_order(read, clips, plan.num_workers, plan.longest_read_s, late)
    yield from zip(clips, track(shown, "clips", total=len(clips)), strict=True)


def answer_first(questions: Sequence[Question], answerer: Answerer, plan: AnswerPlan) -> list[tuple[str, Prediction]]:
    """Returns prompt and answer of the first question in every mode; nothing is written."""
    question = questions[0]
    clip = AskedClip([question], [(question, mode) for mode in plan.modes_of(question)])
    shown = _frames(question, answerer, plan)
    asked = []
    for outcome in _outcomes(clip, shown, answerer, plan):
        if isinstance(outcome, Failure):
            raise EvaluationError(f"question {question.question_id} ({outcome.mode}): {outcome.detail}")
        asked.append((_prompt(question, outcome.mode, answerer, plan), outcome))
    return asked


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
        if span.frame_rate is None and (plan.data_root / span.video).is_dir():
            times_s = [float(number) for number in range(len(frames))]  # of pictures nobody knows the seconds
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


def _outcomes(
    clip: AskedClip, shown: TimedFrames | VideoError, answerer: Answerer, plan: AnswerPlan
) -> Iterator[Prediction | Failure]:
    """Yields the missing answers to questions about one clip, or why there is none: mode by mode, scored ones first."""
    if isinstance(shown, VideoError):
        fault = Fault(shown.reason, shown.detail)
        yield from (_failure(question, mode, fault, shown.path) for question, mode in clip.missing)
        return
    frames = shown
    encoded: EncodedClip[EncodedVideo] = EncodedClip(lambda: _encode(frames, answerer))
    not_finite: dict[str, Fault] = {}
    for scoring_mode in SCORING_MODES:
        for outcome in _scored(clip, scoring_mode, encoded, answerer, plan):
            if isinstance(outcome, Failure) and outcome.reason == "not_finite":
                not_finite[outcome.question_id] = Fault(outcome.reason, outcome.detail)
            yield outcome
    for question in (question for question, mode in clip.missing if mode == "generate"):
        if question.question_id in not_finite:  # what such a model says is no answer, though it may look like one
            yield _failure(question, "generate", not_finite[question.question_id])
        else:
            yield _generated(question, encoded, answerer, plan)


def _scored(
    clip: AskedClip, mode: AnswerMode, encoded: EncodedClip[EncodedVideo], answerer: Answerer, plan: AnswerPlan
) -> Iterator[Prediction | Failure]:
    """Yields the answers of a mode that scores options.

    Where any is missing, all questions about the clip are scored again: what stands in one pass changes the last
    digits of its numbers, which must not depend on where an earlier run was stopped.
    """
    missing = {question.question_id for question, asked_mode in clip.missing if asked_mode == mode}
    if not missing:
        return
    with_options = sorted((asked for asked in clip.questions if asked.options), key=lambda asked: asked.question_id)
    began = time.perf_counter()
    requests = [_request(question, mode, answerer, plan) for question in with_options]
    given = encoded.ask(lambda video: answerer.score(video, requests))
    seconds = (time.perf_counter() - began) / len(requests)
    for number, (question, request) in enumerate(zip(with_options, requests, strict=True)):
        if question.question_id not in missing:
            continue
        scores = scores_of(given, number, requests)
        if isinstance(scores, Fault):
            yield _failure(question, mode, scores)
        else:
            answer = {"option_scores": scores, "predicted_index": best_option(scores)}
            yield _prediction(question, mode, request.prompt, seconds, answer)


def _generated(
    question: Question, encoded: EncodedClip[EncodedVideo], answerer: Answerer, plan: AnswerPlan
) -> Prediction | Failure:
    began = time.perf_counter()
    prompt = _prompt(question, "generate", answerer, plan)
    output = text_of(encoded.ask(lambda video: answerer.generate(video, prompt)))
    if isinstance(output, Fault):
        return _failure(question, "generate", output)
    chosen = parse_choice(output, question.options).index if question.options else None
    answer = {"raw_output": output, "predicted_index": chosen}
    return _prediction(question, "generate", prompt, time.perf_counter() - began, answer)


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


def _failure(question: Question, mode: AnswerMode, fault: Fault, video: str | None = None) -> Failure:
    return Failure(
        id=question.question_id,
        task=question.task,
        mode=mode,
        video=video or question.video,
        reason=fault.reason,
        detail=fault.detail,
    )
