"""Made-up VideoLLaMA2 training data in the real structure, traps included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def turns(*values: str) -> list[dict[str, str]]:
    """Returns turns human, gpt, human, …"""
    return [{"from": ("human", "gpt")[number % 2], "value": value} for number, value in enumerate(values)]


ROWS: list[dict[str, Any]] = [
    {"id": 0, "video": "valley/a.mp4", "conversations": turns("<video>\nWhat is shown?", "A dog.\nIt runs.")},
    {
        "id": 0,
        "video": "valley/b.mp4",
        "conversations": turns("Who is it?\n<video>", "A cook.", "And then?", "He eats."),
    },
    {"id": "c", "image": "llava/c.jpg", "conversations": turns("<image>\nWhat is shown?", "A cup.")},
    {"id": "d", "video": "images/d.JPG", "conversations": turns("<image>\nWhat is shown?", "A cup.")},
    {"id": "e", "image": "llava/e.jpg", "video": "valley/e.mp4", "conversations": turns("<image>\nWhat?", "A cup.")},
    {"id": "f", "conversations": turns("How many legs has a dog?", "Four.")},
    {"id": "g", "video": "valley/g.mp4", "model": "", "conversations": turns("<video>", "")},
    {"id": "h", "video": "valley/h.mp4", "conversations": turns("Hello.", "Hello.", "<video> What is it?", "A cat.")},
]
"""A caption; two answers; a picture; one as the README writes it; both keys; text alone; no answer; a late video."""

MALFORMED: dict[str, list[dict[str, str]]] = {
    "no turns": [],
    "a question alone": turns("<video>\nWhat?"),
    "an answer first": turns("<video>\nWhat?", "A cup.")[::-1],
    "two questions": [*turns("<video>\nWhat?"), *turns("Who?", "A cook.")],
    "an odd end": turns("<video>\nWhat?", "A cup.", "And?"),
    "a system turn": [{"from": "system", "value": "Be brief."}, *turns("<video>\nWhat?", "A cup.")],
    "no token": turns("What?", "A cup."),
    "a token in an answer": turns("<video>\nWhat?", "<video> A cup."),
    "a long turn": turns("<video>\nWhat?", "x" * 30_000),
    "a picture's token": turns("<video>\n<image>\nWhat?", "A cup."),
}


def write_list(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes a file of the form."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def write_videollama2_conversations(root: Path) -> None:
    """Writes the raw layout: one of the two files that the reader knows."""
    write_list(root / "valley_llavaimage.json", ROWS)
