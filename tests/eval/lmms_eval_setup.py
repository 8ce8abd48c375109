"""Every table of EgoBench on disk, a few questions each, with the ways in which their videos are given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy
from numpy.typing import NDArray
from PIL import Image

from eval.tasks import TASKS
from exo2ego.storage import write_jsonl
from tests.eval.evaluation_setup import NUM_TAKES, question_row
from tests.eval.tiny_model import NARRATIONS, tiny_model

QUESTIONS_PER_TABLE = 4
NUM_FRAMES = 20


def write_benchmark(folder: Path) -> Path:
    """Writes `model/`, and `videos/` with `egobench/<task>.jsonl` in it; returns the folder."""
    for take in range(NUM_TAKES):
        write_video(folder / "videos" / f"take{take}" / "ego.mp4", seed=take)
    write_pictures(folder / "videos" / "pictures")
    model, processor = tiny_model()
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    for task in TASKS:
        rows = [_row(task, number) for number in range(QUESTIONS_PER_TABLE)]
        write_jsonl(folder / "videos" / "egobench" / f"{task}.jsonl", rows)
    return folder


def _row(task: str, number: int) -> dict[str, Any]:
    changes: dict[str, Any] = {"id": f"{task}/{number}", "task": task, "source": task, "meta": {}}
    if task == "egoschema":  # whole videos, and labels that are not public
        changes |= {"start": None, "end": None}
        if number == 1:
            changes |= {"answer_index": None, "answer_text": None}
    elif task == "egoplan":
        changes |= {"start": 0.2 * number, "end": 1.0, "observation": 1.0, "options": NARRATIONS[:4]}
        changes |= {"answer_index": number, "answer_text": NARRATIONS[number]}
    elif task == "ek100_mir":  # pictures of a video, of which a span is shown
        relevance = [1.0 if place == number else 0.25 * place for place in range(5)]
        changes |= {"video": "pictures", "frame_rate": 10.0, "meta": {"relevance": relevance}}
    elif task == "qaego4d_open":
        changes |= {"options": [], "answer_index": None, "answer_text": "the red cup"}
    elif task.startswith("egomcq"):
        options = [*NARRATIONS, *(f"I {text}" for text in NARRATIONS)]
        changes |= {"start": 1.0, "end": 1.0, "options": options, "answer_index": 9 - number}
        changes |= {"answer_text": options[9 - number]}
    else:  # spans of their own
        changes |= {"start": 0.1 * number, "end": 0.8 + 0.2 * number}
    return question_row(number, **changes)


def write_video(path: Path, seed: int) -> None:
    """Writes two seconds at 10 frames per second; each picture, 64 x 48, has a brightness of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:  # decord reads no picture that is 48 wide
        stream = container.add_stream("libx264", rate=10, options={"g": "6"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for picture in coloured(seed):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())


def coloured(seed: int, size: tuple[int, int] = (48, 64)) -> NDArray[numpy.uint8]:
    """Returns pictures [20, *size, 3] of a mean brightness of 10, 20, …, with noise around it."""
    noise = numpy.random.default_rng(seed).integers(-8, 9, (NUM_FRAMES, *size, 3))
    return (noise + 10 * numpy.arange(1, NUM_FRAMES + 1)[:, None, None, None]).clip(0, 255).astype(numpy.uint8)


def write_pictures(folder: Path, size: tuple[int, int] = (48, 64)) -> None:
    """Writes the same as a folder of pictures."""
    folder.mkdir(parents=True)
    for number, picture in enumerate(coloured(seed=7, size=size), 1):
        Image.fromarray(picture).save(folder / f"frame_{number:010d}.png")


def read_samples(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Returns the lines of lmms-eval's log of samples by task."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in folder.rglob("*_samples_*.jsonl"):
        task = path.stem.partition("_samples_")[2]
        found[task] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return found
