"""What the evaluator needs from a model; any model that offers it can be evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy
from numpy.typing import NDArray

from exo2ego.model.options import View

PromptForm = Literal["chat", "plain"]
EncodedVideo = Any
"""Whatever a model makes of a clip once, to answer many questions about it; opaque to the evaluator."""


class Answerer(Protocol):
    """A model that scores options and generates text about a video clip."""

    @property
    def identity(self) -> str:
        """Returns a hash that changes when the answers could: weights and preprocessing."""

    @property
    def view(self) -> View:
        """Returns what it looks at; `exo` is shown an exo video of the question's event."""

    @property
    def num_frames(self) -> int:
        """Returns the number of frames that it wants of a clip."""

    def render(self, turn: str) -> str:
        """Returns the exact prompt for a user's turn."""

    def encode(self, frames: NDArray[numpy.uint8]) -> EncodedVideo:
        """Encodes the frames [T, H, W, 3] of a clip."""

    def score_options(self, video: EncodedVideo, prompt: str, options: Sequence[str]) -> list[float]:
        """Returns each option's mean token log-probability after the prompt, its end token included (EgoPlan)."""

    def score_letters(self, video: EncodedVideo, prompt: str, letters: Sequence[str]) -> list[float]:
        """Returns each letter's log-probability as the first token after the prompt."""

    def generate(self, video: EncodedVideo, prompt: str) -> str:
        """Returns the greedy answer to the prompt."""
