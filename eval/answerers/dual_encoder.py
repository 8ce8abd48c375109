"""Answers questions with a dual encoder: the option whose text is nearest to the clip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

from eval.answerers.protocol import DualEncoderDescription, ScoreRequest
from eval.retrieval.encoders import DualEncoder, Embeddings
from exo2ego.errors import EvaluationError
from exo2ego.model.options import View
from exo2ego.records import AnswerMode

ONLY_SCORES = "a dual encoder compares texts with a clip; it can neither read options nor speak: set modes=[likelihood]"


class DualEncoderAnswerer:
    """An `Answerer` whose scores are cosine similarities, from -1 to 1; it does not read the question."""

    view: View = "ego_only"
    modes: tuple[AnswerMode, ...] = ("likelihood",)

    def __init__(self, encoder: DualEncoder) -> None:
        self.encoder = encoder

    @property
    def identity(self) -> str:
        """Returns the encoder's identity."""
        return self.encoder.identity

    @property
    def description(self) -> DualEncoderDescription:
        """Returns that its scores are no log-probabilities."""
        return {"encoder": None, "language_model": None, "scores": "cosine similarities"}

    @property
    def num_frames(self) -> int:
        """Returns the encoder's number of frames."""
        return self.encoder.num_frames

    def render(self, turn: str) -> str:
        """Returns the turn as it is; only the options are used."""
        return turn

    def encode(self, frames: NDArray[numpy.uint8]) -> Embeddings:
        """Encodes the frames [T, H, W, 3] to one embedding [D]."""
        return self.encoder.encode_video(frames)

    def score(self, video: Embeddings, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """Returns the similarities of every request's options; raises `EvaluationError` for letters."""
        if any(request.kind == "letters" for request in requests):
            raise EvaluationError(ONLY_SCORES)
        return [[float(row @ video) for row in self.encoder.encode_text(request.texts)] for request in requests]

    def generate(self, video: Embeddings, prompt: str) -> str:
        """Raises `EvaluationError`: a dual encoder cannot speak."""
        raise EvaluationError(ONLY_SCORES)
