"""An output folder with answers to open questions and to EgoSchema, written by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.predictions import PredictionStore
from exo2ego.records import Prediction, Question

ANSWERS = {"a": ("on the table", "On the table."), "b": ("in the drawer", "in drawers"), "c": ("a knife", "")}


def question(name: str, task: str, **more: Any) -> Question:
    """Returns a question about a made-up video."""
    values = {"id": name, "task": task, "source": task, "video": f"{name}.mp4", "question": f"What is {name}?"}
    return Question.model_validate({**values, "options": [], **more})


def prediction(asked: Question, mode: str, **more: Any) -> Prediction:
    """Returns an answer to a question."""
    values = {
        "id": asked.question_id,
        "task": asked.task,
        "mode": mode,
        "prompt_hash": "h",
        "answer_index": asked.answer_index,
        "num_options": len(asked.options),
        "video": asked.video,
        "seconds": 0.1,
    }
    return Prediction.model_validate({**values, **more})


def write_open_folder(folder: Path, answers: Mapping[str, tuple[str, str]] = ANSWERS) -> Path:
    """Writes questions and answers of `qaego4d_open`; returns the folder."""
    asked = [question(name, "qaego4d_open", answer_text=truth) for name, (truth, _) in answers.items()]
    with PredictionStore(folder, {"model": "m"}, {}, asked) as store:
        for row in asked:
            store.add(prediction(row, "generate", raw_output=answers[row.question_id][1]))
    return folder
