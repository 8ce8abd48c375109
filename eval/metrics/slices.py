"""Accuracy within parts of a task: by kind of question, clip length, number of options and position of the answer."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exo2ego.data.prompting import LETTERS
from exo2ego.intervals import Interval, clustered_interval
from exo2ego.records import Prediction, Question

REASONING_TYPES = ("descriptive", "predictive", "explanatory", "counterfactual")
"""Types of EgoTaskQA; what else stands before the last three parts of `reasoning_type` is the scope."""
LENGTH_BOUNDS_S = (2, 5, 15, 60, 180)
MAX_OPENING_WORDS = 8


@dataclass(frozen=True)
class Slice:
    """The accuracy on some questions of a task."""

    dimension: str
    value: str
    count: int
    accuracy: float
    interval: Interval
    """95 %, clustered by video."""
    chance: float


def slice_scores(scored: Sequence[Prediction], questions: Mapping[str, Question]) -> list[Slice]:
    """Returns the slices of labelled predictions; a dimension in which all questions are alike is left out.

    A question may have several values in a dimension (an EgoTaskQA question that is descriptive and explanatory).
    """
    groups: dict[str, dict[str, list[Prediction]]] = {}
    for row in scored:
        for dimension, value in _values(row, questions.get(row.question_id)):
            groups.setdefault(dimension, {}).setdefault(value, []).append(row)
    _join_rare(groups.get("opening word", {}))
    return [
        _slice(dimension, value, values[value])
        for dimension, values in groups.items()
        if len(values) > 1
        for value in _ordered(dimension, values)
    ]


def _values(row: Prediction, question: Question | None) -> list[tuple[str, str]]:
    pairs = [
        ("number of options", str(row.num_options)),
        ("position of the truth", _letter(row.answer_index)),
        ("position predicted", _letter(row.predicted_index)),
    ]
    if question is None:
        return pairs
    pairs += [("clip length", clip_length(question)), ("opening word", _opening_word(question.question))]
    meta = question.meta
    for dimension, key in (("answer form", "answer_form"), ("video source", "video_source")):
        if key in meta:
            pairs.append((dimension, str(meta[key])))
    return pairs + _reasoning(str(meta.get("reasoning_type", "")))


def _reasoning(text: str) -> list[tuple[str, str]]:
    """Takes EgoTaskQA's `type$…$scope$…$semantic$structure$reference` apart; anything else has no such parts."""
    parts = text.split("$")
    if len(parts) < 4 or not parts[-1]:
        return []
    *kinds, semantic, structure, reference = parts
    named = [("reasoning type" if kind in REASONING_TYPES else "scope", kind) for kind in dict.fromkeys(kinds)]
    return [*named, ("semantic", semantic), ("structure", structure), ("reference", reference)]


def _letter(index: int | None) -> str:
    return "none" if index is None else LETTERS[index]


def clip_length(question: Question) -> str:
    """Returns the bin of a clip's length; a whole video's length is not in the question."""
    if question.end_s is None:
        return "whole video"
    length_s = question.end_s - (question.start_s or 0.0)
    lower = max((bound for bound in LENGTH_BOUNDS_S if length_s >= bound), default=None)
    upper = next((bound for bound in LENGTH_BOUNDS_S if length_s < bound), None)
    if lower is None:
        return f"under {upper} s"
    return f"{lower} to {upper} s" if upper is not None else f"{lower} s and more"


def _opening_word(text: str) -> str:
    words = text.lower().split()
    return words[0].strip(".,;:?!\"'") if words else "none"


def _join_rare(values: dict[str, list[Prediction]]) -> None:
    """Keeps the most frequent opening words and joins the others."""
    counts = Counter({word: len(rows) for word, rows in values.items()})
    rare = sorted(counts, key=lambda word: (-counts[word], word))[MAX_OPENING_WORDS:]
    joined = [row for word in rare for row in values.pop(word)]
    if joined:
        values.setdefault("other words", []).extend(joined)


def _ordered(dimension: str, values: Mapping[str, Sequence[Prediction]]) -> list[str]:
    if dimension == "clip length":
        return [name for name in _length_names() if name in values]
    if dimension == "number of options":
        return sorted(values, key=int)
    if dimension.startswith("position"):
        return sorted(values, key=lambda value: (value == "none", value))
    return sorted(values, key=lambda value: (value == "other words", -len(values[value]), value))


def _length_names() -> list[str]:
    between = [f"{low} to {high} s" for low, high in itertools.pairwise(LENGTH_BOUNDS_S)]
    return [f"under {LENGTH_BOUNDS_S[0]} s", *between, f"{LENGTH_BOUNDS_S[-1]} s and more", "whole video"]


def _slice(dimension: str, value: str, rows: Sequence[Prediction]) -> Slice:
    right = [row.predicted_index == row.answer_index for row in rows]
    return Slice(
        dimension=dimension,
        value=value,
        count=len(rows),
        accuracy=sum(right) / len(right),
        interval=clustered_interval(right, [row.video for row in rows]),
        chance=sum(1 / row.num_options for row in rows) / len(rows),
    )
