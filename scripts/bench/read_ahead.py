"""Whether the evaluator decodes while the model answers: wall time of clips whose decoding or whose model is slower.

    OMP_NUM_THREADS=1 python -m scripts.bench.read_ahead [--clips 12]

The evaluator's own loop over four-second videos of 448 x 336, 16 frames each, and a model that does nothing for a
while, as a GPU's host does. In turns a clip takes the sum of both times; with perfect overlap the longer one.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from eval.answer_plan import AnswerPlan
from eval.answerers.protocol import ScoreRequest
from eval.answering import answer_all
from eval.predictions import PredictionStore
from eval.prompts import PROMPTS
from exo2ego.console import console
from exo2ego.model.options import View
from exo2ego.records import Question
from scripts.bench.question_scoring import NUM_FRAMES, write_clip

MODEL_OF_DECODING = (0.33, 1.0, 3.0)
"""The model's time per clip, as a multiple of the time that one thread needs to decode it."""
THREADS = (0, 1, 2, 4)


class Waiting:
    """A model whose every clip takes as long."""

    identity = "waiting"
    view: View = "ego_only"
    num_frames = NUM_FRAMES

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def render(self, turn: str) -> str:
        """Returns the turn."""
        return turn

    def encode(self, frames: Any) -> None:
        """Waits."""
        time.sleep(self.seconds)

    def score(self, video: None, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """Returns scores that fall."""
        return [[-float(number) for number in range(len(request.texts))] for request in requests]

    def generate(self, video: None, prompt: str) -> str:
        """Returns nothing."""
        return ""


def write_questions(folder: Path, count: int) -> list[Question]:
    """Writes videos and returns a question about each."""
    for number in range(count):
        write_clip(folder / f"{number}.mp4", number)
    rows = ({"id": str(number), "video": f"{number}.mp4", "answer_index": 0} for number in range(count))
    same = {"task": "egoschema", "source": "made up", "question": "Which?", "options": ["a", "b"], "answer_text": "a"}
    return [Question.model_validate({**same, **row}) for row in rows]


def seconds_per_clip(questions: Sequence[Question], folder: Path, model_s: float, threads: int) -> float:
    """Returns the wall time of the evaluator's loop per clip."""
    template = PROMPTS["question_only@1"]
    plan = AnswerPlan(
        modes=("likelihood",),
        choice_prompt=template,
        likelihood_prompt=template,
        open_prompt=template,
        data_root=folder,
        seed=0,
        max_failures=0,
        num_workers=threads,
    )
    with (
        tempfile.TemporaryDirectory() as output,
        PredictionStore(Path(output) / "run", {"model": "waiting"}, {}, questions) as store,
    ):
        began = time.perf_counter()
        answer_all(questions, Waiting(model_s), plan, store)
        return (time.perf_counter() - began) / len(questions)


def measure(folder: Path, num_clips: int, threads: Sequence[int] = THREADS) -> Table:
    """Returns the table."""
    questions = write_questions(folder, num_clips)
    decoding_s = min(seconds_per_clip(questions, folder, 0.0, 0) for _ in range(2))
    title = f"decoding in one thread: {1000 * decoding_s:.0f} ms per clip; below: ms per clip"
    columns = [f"{count} threads ahead" if count else "in turns" for count in threads]
    table = Table("model", *columns, "the longer of both", title=title)
    for multiple in MODEL_OF_DECODING:
        model_s = multiple * decoding_s
        found = [seconds_per_clip(questions, folder, model_s, count) for count in threads]
        longer = max(model_s, decoding_s)
        table.add_row(f"{1000 * model_s:.0f} ms", *(f"{1000 * value:.0f}" for value in (*found, longer)))
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `python -m scripts.bench.read_ahead`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=12)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        console.print(measure(Path(folder), arguments.clips))


if __name__ == "__main__":
    main()
