"""Answers questions with any OpenAI-compatible vision endpoint, which sees the frames as pictures.

It can only generate: an endpoint does not tell the probability of a text that it did not write.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

from eval.answerers.protocol import ModelDescription, ScoreRequest
from exo2ego.errors import EvaluationError
from exo2ego.language_prompt import Prompt
from exo2ego.language_service import LanguageService, NoTextError
from exo2ego.model.options import View
from exo2ego.records import AnswerMode
from exo2ego.storage import hash_text

DEFAULT_NUM_FRAMES = 16
"""As the paper shows every model (Exo2Ego Table 13)."""
LONGEST_SIDE = 768
"""Pixels: a larger picture is shrunk, as most endpoints would do."""
JPEG_QUALITY = 90


class EndpointAnswerer:
    """An `Answerer` over an endpoint; an encoded video is its frames as JPEG files."""

    view: View = "ego_only"
    modes: tuple[AnswerMode, ...] = ("generate",)

    def __init__(self, service: LanguageService, num_frames: int | None) -> None:
        self.service = service
        self.num_frames = num_frames or DEFAULT_NUM_FRAMES

    @property
    def identity(self) -> str:
        """Returns a hash of the model's name and address, how it is asked and what it is shown.

        The weights behind the name cannot be seen.
        """
        options = self.service.options
        asked = [options.model, options.base_url, options.temperature, options.max_answer_tokens]
        return hash_text(json.dumps([*asked, LONGEST_SIDE, JPEG_QUALITY]))

    @property
    def description(self) -> ModelDescription:
        """Returns the model's name at the endpoint."""
        return {"encoder": None, "language_model": self.service.options.model}

    def render(self, turn: str) -> str:
        """Returns the turn as it is: the endpoint has its own template."""
        return turn

    def encode(self, frames: NDArray[numpy.uint8]) -> tuple[bytes, ...]:
        """Encodes the frames [T, H, W, 3] as pictures."""
        return tuple(map(_jpeg, frames))

    def score(self, video: tuple[bytes, ...], requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """Raises `EvaluationError`: an endpoint cannot score."""
        raise EvaluationError("an endpoint cannot score options or letters; set modes=[generate]")

    def generate(self, video: tuple[bytes, ...], prompt: str) -> str:
        """Returns the endpoint's answer, empty where it answers without a text.

        Raises `ServiceError` when it gives none within its attempts, `RefusedError` when it refuses this question.
        """
        try:
            return self.service.ask(Prompt("", prompt, video)).text
        except NoTextError:  # left out instead, a question that a model will not answer would not count against it
            return ""


def _jpeg(frame: NDArray[numpy.uint8]) -> bytes:
    from PIL import Image

    picture = Image.fromarray(frame)
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
