"""Output folders of evaluations, written without a model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.tasks import AVERAGED
from exo2ego.storage import write_json, write_jsonl

NUM_OPTIONS = {"qaego4d_close": 4, "egoplan": 4, "vlnqa": 4, "egomcq_inter": 10, "egomcq_intra": 10}


def question(task: str, number: int, **changes: Any) -> dict[str, Any]:
    """Returns a question of a task; five per video."""
    draw = random.Random(f"{task}/{number}")
    count = NUM_OPTIONS.get(task, 5)
    answer = draw.randrange(count)
    meta: dict[str, Any] = {}
    if task == "ek100_mir":
        meta["relevance"] = [1.0 if place == answer else draw.choice((0.0, 0.5)) for place in range(count)]
    if task.startswith("egotaskqa"):
        meta["reasoning_type"] = draw.choice(
            ("descriptive$world$action$query$direct", "predictive$explanatory$intent$state$verify$indirect")
        )
        meta["answer_form"] = draw.choice(("binary", "open"))
    return {
        "id": f"{task}/{number}",
        "task": task,
        "source": task,
        "video": f"{task.split('_')[0]}/{number // 5}.mp4",
        "start": 0.5,
        "end": 0.5 + draw.choice((1, 3, 20)),
        "question": f"{draw.choice(('What', 'Where'))} does C do in part {number}?",
        "options": [f"C does thing {number}.{place}." for place in range(count)],
        "answer_index": answer,
        "answer_text": "thing",
        "meta": meta,
        **changes,
    }


def prediction(asked: dict[str, Any], mode: str, skill: float, draw: random.Random) -> dict[str, Any]:
    """Returns an answer that is right a little more often the higher `skill` is; to an open question a text."""
    count, truth = len(asked["options"]), asked["answer_index"] or 0
    row = {
        "id": asked["id"],
        "task": asked["task"],
        "mode": mode,
        "prompt_hash": f"hash of {asked['id']}",
        "answer_index": asked["answer_index"],
        "num_options": count,
        "video": asked["video"],
        "seconds": 0.25,
    }
    if not count:
        return {**row, "raw_output": asked["answer_text"] if draw.random() < skill else "I cannot tell"}
    if mode == "generate":
        chosen = truth if draw.random() < skill else draw.choice((*range(count), None))
        text = "I cannot tell" if chosen is None else f"({'ABCDEFGHIJ'[chosen]})"
        return {**row, "raw_output": text, "predicted_index": chosen}
    scores = [draw.gauss(3 * skill if place == truth else 0, 1) for place in range(count)]
    return {**row, "option_scores": scores, "predicted_index": scores.index(max(scores))}


def write_run(
    folder: Path,
    *,
    tasks: Sequence[str] = AVERAGED,
    num_questions: int = 30,
    modes: Sequence[str] = ("likelihood",),
    skill: float = 0.5,
    seed: int = 0,
    questions: Sequence[dict[str, Any]] | None = None,
    model: str = "/somewhere/runs/stage3",
    **key: Any,
) -> Path:
    """Writes a finished run of `model`; `key` is added to its run key."""
    asked = questions if questions is not None else [question(task, n) for task in tasks for n in range(num_questions)]
    draw = random.Random(seed)
    answers = [
        prediction(row, mode, skill, draw) for row in asked for mode in (modes if row["options"] else ("generate",))
    ]
    write_jsonl(folder / "questions.jsonl", list(asked))
    write_jsonl(folder / "predictions.jsonl", answers)
    write_jsonl(folder / "failures.jsonl", [])
    settings = {"model": "a" * 64, "form": "chat", "prompt": "first_person@1", "likelihood_prompt": "question_only@1"}
    write_json(
        folder / "run.json",
        {
            "key": {**settings, "num_frames": 16, "prompt_texts": "b" * 64, **key},
            "provenance": {
                "code": {"version": "0.1.0", "commit": "c" * 40, "modified": False},
                "packages": {"torch": "2.15.0"},
                "command": f"egobench output={folder}",
                "written_utc": "2026-01-01T00:00:00+00:00",
                "config": {"model": model, "output": str(folder), "modes": list(modes)},
                "inputs": {"/somewhere/questions.jsonl": "d" * 64},
            },
        },
    )
    return folder
