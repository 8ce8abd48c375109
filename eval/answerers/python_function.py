"""Answers questions with a function of the user's: `model=python:MODULE:FUNCTION`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy
from numpy.typing import NDArray

from eval.answerers.protocol import ScoreRequest
from exo2ego.errors import EvaluationError
from exo2ego.model.options import View
from exo2ego.records import AnswerMode
from exo2ego.storage import hash_file, hash_text

DEFAULT_NUM_FRAMES = 16
"""As the paper shows every model (Exo2Ego Table 13)."""
Frames = NDArray[numpy.uint8]
"""[T, H, W, 3]"""


class PythonFunctionAnswerer:
    """An `Answerer` that can only generate: a function gets frames [T, H, W, 3] and a prompt and returns a text."""

    view: View = "ego_only"
    modes: tuple[AnswerMode, ...] = ("generate",)

    def __init__(self, answer: Callable[[Frames, str], str], identity: str, num_frames: int | None) -> None:
        self._answer = answer
        self.identity = identity
        self.num_frames = num_frames or DEFAULT_NUM_FRAMES

    @classmethod
    def load(cls, source: str, num_frames: int | None) -> PythonFunctionAnswerer:
        """Loads MODULE:FUNCTION, as Python would import it from the current folder.

        The identity is name and content of the module's file: what it loads besides is not seen. Raises
        `EvaluationError` where there is no such function.
        """
        module_name, _, name = source.partition(":")
        try:
            module = importlib.import_module(module_name)
        except (ImportError, ValueError) as error:
            raise EvaluationError(f"model=python:{source}: {error}; expected MODULE:FUNCTION") from error
        answer = getattr(module, name, None)
        if not callable(answer) or module.__file__ is None:
            raise EvaluationError(f"model=python:{source}: {module_name} has no function `{name}`")
        return cls(answer, hash_text(f"{source} {hash_file(Path(module.__file__))}"), num_frames)

    def render(self, turn: str) -> str:
        """Returns the turn as it is: the function has its own template."""
        return turn

    def encode(self, frames: Frames) -> Frames:
        """Returns the frames as they are."""
        return frames

    def score(self, video: Frames, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """Raises `EvaluationError`: the function only writes."""
        raise EvaluationError("a function of one's own cannot score; set modes=[generate]")

    def generate(self, video: Frames, prompt: str) -> str:
        """Returns what the function answers."""
        return self._answer(video, prompt)
