"""What a model is shown of a clip: its frames, read ahead by threads, or what a control run shows in their place."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from eval.answer_plan import AnswerPlan, AskedClip
from eval.answerers.protocol import Answerer, EncodedVideo, PreparingAnswerer, TimedEncoder
from eval.reading_ahead import read_in_order
from exo2ego.console import track
from exo2ego.data.spans import Span
from exo2ego.data.video import read_span
from exo2ego.errors import EvaluationError, VideoError
from exo2ego.model.options import View
from exo2ego.records import Question

GREY = 128
"""The colour of a control run's pictures, of 0 to 255."""


class ShownClip(NamedTuple):
    """What is shown of a clip."""

    frames: NDArray[numpy.uint8]
    """[T, H, W, 3]"""
    times_s: list[float]
    """Of every frame, in seconds from the start of the clip."""
    prepared: Any = None
    """What a `PreparingAnswerer` made of the frames."""


def read_ahead(
    clips: Sequence[AskedClip], answerer: Answerer, plan: AnswerPlan
) -> Iterator[tuple[AskedClip, ShownClip | VideoError]]:
    """Yields every clip's questions with what is shown, or why it cannot be read, in order.

    Threads decode a few clips ahead while the model answers, and prepare their pixels where the model lets them:
    decoding and torch release Python's lock.
    """

    def read(clip: AskedClip) -> ShownClip | VideoError:
        try:
            shown = show(clip.questions[0], answerer, plan)
        except VideoError as error:
            return error
        if isinstance(answerer, PreparingAnswerer):
            with suppress(Exception):  # `encode` meets the same fault, where it is counted and does not end the run
                return shown._replace(prepared=answerer.prepare(shown.frames))
        return shown

    def late(clip: AskedClip) -> VideoError:
        return VideoError(clip.questions[0].video, "timeout", f"was not read within {plan.longest_read_s:g} s")

    shown = read_in_order(read, clips, plan.num_workers, plan.longest_read_s, late)
    yield from zip(clips, track(shown, "clips", total=len(clips)), strict=True)


def encode(clip: ShownClip, answerer: Answerer) -> EncodedVideo:
    """Encodes a clip, with the times of its frames where the model is told them."""
    if clip.prepared is not None and isinstance(answerer, PreparingAnswerer):
        return answerer.encode_prepared(clip.prepared)
    if isinstance(answerer, TimedEncoder):
        return answerer.encode_timed(clip.frames, clip.times_s)
    return answerer.encode(clip.frames)


def show(question: Question, answerer: Answerer, plan: AnswerPlan) -> ShownClip:
    """Returns the frames of a question's clip, or what a control run shows in their place."""
    span = Span.of(question, shown_video(question, answerer.view, plan.seed))
    if plan.clip_store is not None:
        stored = plan.clip_store.read(span)
        frames, times_s = stored.frames, list(stored.timestamps_s)
    else:
        frames, known_s, _ = read_span(plan.data_root, span, answerer.num_frames)
        times_s = known_s or [float(number) for number in range(len(frames))]
    times_s = [max(0.0, time_s - (span.start_s or 0.0)) for time_s in times_s]
    if plan.blind:
        return ShownClip(numpy.full_like(frames, GREY), times_s)
    if plan.shuffle_frames:
        return ShownClip(frames[another_order(len(frames), f"{plan.seed}/{span.video}/{span.start_s}")], times_s)
    return ShownClip(frames, times_s)


def another_order(num_frames: int, key: str) -> list[int]:
    """Returns an order of frames that `key` decides and that is not their own, unless there is one frame alone."""
    order, draw = list(range(num_frames)), random.Random(key)
    while num_frames > 1 and order == sorted(order):
        draw.shuffle(order)
    return order


def shown_video(question: Question, view: View, seed: int) -> str:
    """Returns the video to show: the question's own, or for `exo` one of its exo videos chosen by seed and clip."""
    if view != "exo":
        return question.video
    return str(random.Random(f"{seed}/{question.video}/{question.start_s}").choice(question.meta["exo_videos"]))


def require_exo_videos(clips: Sequence[Sequence[Question]]) -> None:
    """Raises `EvaluationError` for a question without exo videos, or with others than those about the same clip."""
    for about in clips:
        for question in about:
            videos = question.meta.get("exo_videos")
            if not isinstance(videos, list) or not videos or not all(isinstance(video, str) for video in videos):
                raise EvaluationError(
                    f"question {question.question_id} has no list of videos as meta.exo_videos, which view=exo shows"
                )
            if videos != about[0].meta["exo_videos"]:
                raise EvaluationError(
                    f"questions {about[0].question_id} and {question.question_id} are about one clip and name other "
                    "exo videos (meta.exo_videos); a clip is shown once: make the lists equal"
                )
