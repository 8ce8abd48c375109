"""What can go wrong in a model while it answers: counted outcomes, so that one clip does not end a run of hours."""

from __future__ import annotations

import gc
import math
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from eval.answerers.protocol import ScoreRequest
from exo2ego.errors import CheckpointError, ConfigError, DataError, Exo2EgoError, ServiceError
from exo2ego.language_service import RefusedError

Encoded = TypeVar("Encoded")
Given = TypeVar("Given")
QUOTED_CHARACTERS = 300
NO_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


@dataclass(frozen=True)
class Fault:
    """Why a question has no answer."""

    reason: str
    """A short machine-readable word for the failure log."""
    detail: str


class EncodedClip(Generic[Encoded]):
    """A clip as a model encodes it: when it is first asked about, and again after a fault, which may have spoilt it.

    An endpoint that is down, and a clip that cannot be encoded, are not tried for the clip's other questions.
    """

    def __init__(self, encode: Callable[[], Encoded]) -> None:
        self._encode = encode
        self._encoded: list[Encoded] = []
        self._given_up: Fault | None = None

    def ask(self, question: Callable[[Encoded], Given]) -> Given | Fault:
        """Returns what the model gives, or how it failed. What the user must change first is raised as it is."""
        if self._given_up is not None:
            return self._given_up
        try:
            if not self._encoded:
                self._encoded = [self._encode()]
            return question(self._encoded[0])
        except (ConfigError, CheckpointError, DataError):
            raise
        except Exception as error:
            fault = _fault_of(error)
        if fault.reason == "endpoint" or not self._encoded:
            self._given_up = fault
        self._encoded = []
        if fault.reason == "out_of_memory":
            _free_memory()
        return fault


def _fault_of(error: Exception) -> Fault:
    if isinstance(error, ServiceError):
        return Fault("refused" if isinstance(error, RefusedError) else "endpoint", str(error))
    if isinstance(error, Exo2EgoError):
        return Fault("model", str(error))
    text = " ".join(str(error).split())[:QUOTED_CHARACTERS]
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    has_no_memory = isinstance(error, MemoryError) or any(sign in str(error) for sign in NO_MEMORY)
    advice = "; set fewer num_frames, or use a larger GPU" if has_no_memory else ""
    return Fault("out_of_memory" if has_no_memory else "model", f"{type(error).__name__}: {text}{place}{advice}")


def _free_memory() -> None:
    """Hands memory back that a pass has left behind, for the next clip."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def scores_of(given: Any, number: int, requests: Sequence[ScoreRequest]) -> list[float] | Fault:
    """Returns the scores for request `number` of what a model gave for all of them, or what is wrong with them."""
    if isinstance(given, Fault):
        return given
    if not hasattr(given, "__len__") or len(given) != len(requests):
        return _misshapen("score", given, f"a list of scores for each of {len(requests)} questions")
    row, expected = given[number], f"{len(requests[number].texts)} numbers"
    try:
        scores = [float(score) for score in row]
    except (TypeError, ValueError):
        return _misshapen("score", row, expected)
    if len(scores) != len(requests[number].texts):
        return _misshapen("score", scores, expected)
    if not all(map(math.isfinite, scores)):
        told = f"option scores are not finite: {scores}; the model's weights or input are damaged"
        return Fault("not_finite", told)
    return scores


def text_of(given: Any) -> str | Fault:
    """Returns a generated text, as UTF-8 can hold it."""
    if isinstance(given, Fault):
        return given
    if not isinstance(given, str):
        return _misshapen("generate", given, "a text")
    return given.encode("utf-8", "replace").decode("utf-8")


def _misshapen(method: str, given: Any, expected: str) -> Fault:
    return Fault("wrong_shape", f"{method} returned {repr(given)[:QUOTED_CHARACTERS]}, expected {expected}")
