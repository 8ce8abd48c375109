"""Records of every type and the files that hold them, made up for tests that look at data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet
from PIL import Image

from exo2ego.data.clips import CLIP_SCHEMA
from exo2ego.records import Clip, Conversation, Prediction, Question, Record


def clip(**changes: Any) -> Clip:
    """Returns a clip with one exo view."""
    values: dict[str, Any] = {
        "clip_id": "take/0/1",
        "take_uid": "uid",
        "take_name": "take",
        "start_s": 0.2,
        "end_s": 0.6,
        "timestamp_s": 0.4,
        "text": "C lifts the red cup.",
        "annotator": "1",
        "ego_video": "ego.mp4",
        "exo_videos": ["exo.mp4"],
        "scenario": "Cooking",
        "university": "cmu",
    }
    return Clip(**(values | changes))


def conversation(**changes: Any) -> Conversation:
    """Returns a conversation about the whole of `ego.mp4`."""
    values = {"id": "egtea/1", "source": "egtea", "video": "ego.mp4", "question": "What am I doing?", "type": "action"}
    return Conversation(**(values | {"answer": "Lifting the red cup."} | changes))


def question(**changes: Any) -> Question:
    """Returns a question with three options, the second of which is true."""
    values: dict[str, Any] = {
        "id": "ek100/1",
        "task": "ek100_mir",
        "source": "ek100_mir",
        "video": "ego.mp4",
        "start": 0.0,
        "end": 1.0,
        "question": "What action am I currently performing?",
        "options": ["wash the cup", "lift the red cup", "raise the red cup"],
        "answer_index": 1,
        "answer_text": "lift the red cup",
        "meta": {"also_correct": [2], "similarities": [0.41, 1.0, 0.93]},
    }
    return Question(**(values | changes))


def prediction(**changes: Any) -> Prediction:
    """Returns a wrong answer to `question()`, by likelihood."""
    values: dict[str, Any] = {
        "id": "ek100/1",
        "task": "ek100_mir",
        "mode": "likelihood",
        "prompt_hash": "0",
        "option_scores": [-0.5, -0.9, -1.5],
        "predicted_index": 0,
        "answer_index": 1,
        "num_options": 3,
        "video": "ego.mp4",
        "seconds": 0.25,
    }
    return Prediction(**(values | changes))


def write_records(path: Path, records: Sequence[Record]) -> Path:
    """Writes a clip table, a JSON list or JSONL, as the suffix says."""
    rows = [record.to_row() for record in records]
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=CLIP_SCHEMA), path)
    elif path.suffix == ".arrow":
        table = pyarrow.Table.from_pylist(rows, schema=CLIP_SCHEMA)
        with pyarrow.ipc.new_file(str(path), CLIP_SCHEMA) as writer:
            writer.write_table(table)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_pictures(folder: Path, colour: tuple[int, int, int], count: int = 4, *, height: int = 96) -> Path:
    """Writes a folder of pictures of one colour, with a depth map among them."""
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = numpy.broadcast_to(numpy.array(colour, dtype=numpy.uint8), (height, 160, 3))
        Image.fromarray(pixels.copy()).save(folder / f"{number:06d}-rgb.png")
    Image.new("L", (160, height)).save(folder / "000000-depth.png")
    return folder
