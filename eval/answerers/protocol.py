"""What the evaluator needs from a model; any model that offers it can be evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypedDict, runtime_checkable

import numpy
from numpy.typing import NDArray

from exo2ego.model.options import View
from exo2ego.records import AnswerMode

PromptForm = Literal["chat", "plain"]
EncodedVideo = Any
"""Whatever a model makes of a clip once, to answer many questions about it; opaque to the evaluator."""


@dataclass(frozen=True)
class ScoreRequest:
    """Texts to be scored after a prompt."""

    prompt: str
    texts: tuple[str, ...]
    kind: Literal["options", "letters"]
    """options: mean log-probability of a text's tokens and the end token (EgoPlan), or of a dual encoder the cosine
    similarity; letters: log-probability of its first token."""


class ModelDescription(TypedDict):
    """What a report says of a model; None where it has no such part or it is not known."""

    encoder: str | None
    language_model: str | None


class DualEncoderDescription(ModelDescription):
    """What a report must know besides of a model whose option scores are no log-probabilities."""

    scores: str
    """What they are, as `cosine similarities`: no confidence is made of them, so that there is no calibration."""


class Answerer(Protocol):
    """A model that scores options and generates text about a video clip."""

    @property
    def identity(self) -> str:
        """Returns a hash that changes when the answers could: weights, settings, preprocessing."""

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

    def score(self, video: EncodedVideo, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """Returns the scores of every request's texts; all questions about a clip come together."""

    def generate(self, video: EncodedVideo, prompt: str) -> str:
        """Returns the greedy answer to the prompt."""


@runtime_checkable
class LimitedAnswerer(Protocol):
    """An `Answerer` that cannot answer in every mode."""

    @property
    def modes(self) -> tuple[AnswerMode, ...]:
        """Returns those in which it can; without `generate` it is asked no open questions."""


@runtime_checkable
class DescribedAnswerer(Protocol):
    """An `Answerer` that can say what it is made of."""

    @property
    def description(self) -> ModelDescription:
        """Returns its parts in a few words."""


@runtime_checkable
class PreparingAnswerer(Protocol):
    """An `Answerer` that lets the threads which decode also prepare the pixels, so that a GPU need not wait for it."""

    def prepare(self, frames: NDArray[numpy.uint8]) -> Any:
        """Returns what the frames [T, H, W, 3] of a clip become without the model; called by several threads."""

    def encode_prepared(self, prepared: Any) -> EncodedVideo:
        """Encodes what `prepare` returned, as `encode` does the frames."""


@runtime_checkable
class TimedEncoder(Protocol):
    """An `Answerer` that is also told when the frames of a clip were taken."""

    def encode_timed(self, frames: NDArray[numpy.uint8], times_s: Sequence[float]) -> EncodedVideo:
        """Encodes the frames [T, H, W, 3] of a clip, taken `times_s` seconds after its start."""
