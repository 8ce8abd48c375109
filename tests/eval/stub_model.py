"""A model without weights that fails as it is told, asked through the command that a user types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import pytest
from numpy.typing import NDArray

from eval import egobench
from eval.answerers import loading
from eval.answerers.protocol import ScoreRequest
from exo2ego.model.options import View
from exo2ego.storage import write_jsonl
from tests.eval.evaluation_setup import NUM_TAKES, question_row, write_video
from tests.shared_data import REPOSITORY

Fault = Callable[[], Any]
"""Returns or raises what a failing model would."""


@dataclass
class StubModel:
    """Prefers option A and says so, but for the clips and calls that it is told to fail at."""

    faults: dict[tuple[str, int], Fault] = field(default_factory=dict)
    """By method and number of its call, from 0."""
    text: str = "(A)"
    identity: str = "stub"
    view: View = "ego"
    num_frames: int = 2
    calls: dict[str, int] = field(default_factory=dict)

    def _outcome(self, method: str, good: Any) -> Any:
        number = self.calls.get(method, 0)
        self.calls[method] = number + 1
        fault = self.faults.get((method, number)) or self.faults.get((method, -1))
        return fault() if fault else good

    def render(self, turn: str) -> str:
        """Returns the turn."""
        return turn

    def encode(self, frames: NDArray[numpy.uint8]) -> Any:
        """Returns nothing of use."""
        return self._outcome("encode", "clip")

    def score(self, video: Any, requests: Sequence[ScoreRequest]) -> Any:
        """Returns falling scores."""
        return self._outcome("score", [[-1.0 - n for n in range(len(request.texts))] for request in requests])

    def generate(self, video: Any, prompt: str) -> Any:
        """Returns the text."""
        return self._outcome("generate", self.text)


def raising(error: BaseException) -> Fault:
    """Returns a fault that raises."""

    def fault() -> Any:
        raise error

    return fault


def write_questions(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Writes videos and `questions.jsonl`; returns the folder."""
    for take in range(NUM_TAKES):
        write_video(folder / "videos" / f"take{take}" / "ego.mp4", seed=take)
    write_jsonl(folder / "questions.jsonl", rows)
    return folder


def one_clip_each(count: int, **changes: Any) -> list[dict[str, Any]]:
    """Returns questions of which no two are about the same clip."""
    return [question_row(number, start=0.05 * number, **changes) for number in range(count)]


def run(model: StubModel, setup: Path, output: Path, patch: pytest.MonkeyPatch, *overrides: str) -> int:
    """Runs `python -m eval.egobench` with a model."""
    patch.setitem(loading.FAMILIES, "stub", lambda source, options: model)
    config = REPOSITORY / "eval" / "configs" / "egobench.yaml"
    paths = [f"data.questions={setup / 'questions.jsonl'}", f"data.root={setup / 'videos'}", f"output={output}"]
    modes = "modes=[likelihood,letter,generate]"
    return egobench.main(["--config", str(config), "model=stub:x", *paths, modes, *overrides])
