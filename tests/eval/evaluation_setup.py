"""A small evaluation on disk: videos, questions and an exported tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy

from exo2ego.storage import write_jsonl
from tests.eval.tiny_model import NARRATIONS, tiny_model

NUM_TAKES = 3


def write_video(path: Path, seed: int) -> None:
    """Writes two seconds of 48 x 48 video at 10 frames per second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = numpy.random.default_rng(seed).integers(0, 256, (20, 48, 48, 3), dtype=numpy.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 48
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())


def question_row(number: int, **changes: Any) -> dict[str, Any]:
    """Returns the JSON form of a question about one of the takes."""
    take = f"take{number % NUM_TAKES}"
    return {
        "id": f"inter/{take}/{number}",
        "task": "narration_inter",
        "source": "ego_exoclip",
        "video": f"{take}/ego.mp4",
        "start": 0.5,
        "end": 1.5,
        "question": "Which description?",
        "options": NARRATIONS,
        "answer_index": number % 5,
        "answer_text": NARRATIONS[number % 5],
        "meta": {"exo_videos": [f"{take}/cam01.mp4", f"{take}/cam02.mp4"]},
        **changes,
    }


def write_setup(folder: Path, num_questions: int = 12) -> Path:
    """Writes `videos/`, `model/` and `questions.jsonl`; returns the folder."""
    for take in range(NUM_TAKES):
        for number, name in enumerate(("ego", "cam01", "cam02")):
            write_video(folder / "videos" / f"take{take}" / f"{name}.mp4", seed=10 * take + number)
    model, processor = tiny_model()
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    write_jsonl(folder / "questions.jsonl", (question_row(number) for number in range(num_questions)))
    return folder
