"""Puts every question to a model: a clip is decoded and encoded once, an answer is written as soon as it exists."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.answer_plan import AnswerPlan, AskedClip
from eval.answerers.protocol import Answerer, EncodedVideo, LimitedAnswerer, ScoreRequest
from eval.failures import Failure
from eval.metrics.scoring import best_option
from eval.model_faults import EncodedClip, Fault, scores_of, text_of
from eval.parsing import parse_choice
from eval.predictions import FAILURES_FILE, PredictionStore
from eval.prompts import choice_turn, open_turn
from eval.questions import by_clip
from eval.shown_clips import ShownClip, encode, read_ahead, require_exo_videos, show
from exo2ego.console import console
from exo2ego.data.prompting import LETTERS, normal_form
from exo2ego.errors import DataError, EvaluationError, VideoError
from exo2ego.records import AnswerMode, Prediction, Question
from exo2ego.storage import hash_text

SCORING_MODES: tuple[AnswerMode, ...] = ("likelihood", "letter")
"""Those that compare options, in the order in which they are asked."""
LONGEST_ROW_OF_FAULTS = 10
"""Clips in succession about which the model answers nothing: a broken model, a full GPU, an endpoint that is down."""


def answer_all(questions: Sequence[Question], answerer: Answerer, plan: AnswerPlan, store: PredictionStore) -> None:
    """Answers what `store` does not hold yet; with several processes, this one's share of it.

    Raises `EvaluationError` when a stored answer belongs to another prompt or the model fails too often, `DataError`
    when too many videos are unreadable or the endpoint fails too often.
    """
    _require_same_prompts(questions, answerer, plan, store)
    _tell_of_repeated_options(questions)
    all_clips = by_clip(questions)
    if answerer.view == "exo":
        require_exo_videos(all_clips)
    clips = [clip for about in all_clips if (clip := _asked(about, plan, store)).missing]
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
        what = last.video if is_unread else f"question {last.question_id} ({last.mode})"
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


def _asked(about: Sequence[Question], plan: AnswerPlan, store: PredictionStore) -> AskedClip:
    wanted = [(question, mode) for question in about for mode in plan.modes_of(question)]
    return AskedClip(about, [(asked, mode) for asked, mode in wanted if (asked.question_id, mode) not in store.done])


def answer_first(questions: Sequence[Question], answerer: Answerer, plan: AnswerPlan) -> list[tuple[str, Prediction]]:
    """Returns prompt and answer of the first question in every mode; nothing is written."""
    question = questions[0]
    if answerer.view == "exo":
        require_exo_videos([[question]])
    clip = AskedClip([question], [(question, mode) for mode in plan.modes_of(question)])
    shown = show(question, answerer, plan)
    asked = []
    for outcome in _outcomes(clip, shown, answerer, plan):
        if isinstance(outcome, Failure):
            raise EvaluationError(f"question {question.question_id} ({outcome.mode}): {outcome.detail}")
        asked.append((_prompt(question, outcome.mode, answerer, plan), outcome))
    return asked


def _prompt(question: Question, mode: AnswerMode, answerer: Answerer, plan: AnswerPlan) -> str:
    if not question.options:
        return answerer.render(open_turn(plan.open_prompt, question.question))
    if mode == "likelihood":
        return answerer.render(open_turn(plan.likelihood_prompt, question.question))
    return answerer.render(choice_turn(plan.choice_prompt, question.question, question.options))


def hash_of_prompts(questions: Sequence[Question], answerer: Answerer, plan: AnswerPlan) -> str:
    """Returns a hash of every prompt that the model could be asked with: a mode may be added later."""
    able: tuple[AnswerMode, ...] = (
        answerer.modes if isinstance(answerer, LimitedAnswerer) else ("likelihood", "generate")
    )
    modes = [mode for mode in able if mode != "letter"]  # its prompt is that of generate
    rendered = (_prompt(question, mode, answerer, plan) for question in questions for mode in modes)
    return hash_text("\n".join(sorted(map(hash_text, rendered))))


def _prompt_hash(prompt: str, options: Sequence[str]) -> str:
    return hash_text(json.dumps([prompt, *options]))


def _outcomes(
    clip: AskedClip, shown: ShownClip | VideoError, answerer: Answerer, plan: AnswerPlan
) -> Iterator[Prediction | Failure]:
    """Yields the missing answers to questions about one clip, or why there is none: mode by mode, scored ones first."""
    if isinstance(shown, VideoError):
        fault = Fault(shown.reason, shown.detail)
        yield from (_failure(question, mode, fault, shown.path) for question, mode in clip.missing)
        return
    frames = shown
    encoded: EncodedClip[EncodedVideo] = EncodedClip(lambda: encode(frames, answerer))
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
    outcomes = _scores(requests, encoded, answerer)
    seconds = (time.perf_counter() - began) / len(requests)
    for question, request, scores in zip(with_options, requests, outcomes, strict=True):
        if question.question_id not in missing:
            continue
        if isinstance(scores, Fault):
            yield _failure(question, mode, scores)
        else:
            answer = {"option_scores": scores, "predicted_index": best_option(scores)}
            yield _prediction(question, mode, request.prompt, seconds, answer)


def _scores(
    requests: Sequence[ScoreRequest], encoded: EncodedClip[EncodedVideo], answerer: Answerer
) -> list[list[float] | Fault]:
    """Returns the scores of every question; one that the model fails at, for example a long one, costs no other."""
    given = encoded.ask(lambda video: answerer.score(video, requests))
    if isinstance(given, Fault) and len(requests) > 1:
        return [outcome for request in requests for outcome in _scores([request], encoded, answerer)]
    return [scores_of(given, number, requests) for number in range(len(requests))]


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
