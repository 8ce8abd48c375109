"""The measures of open questions: a judge's verdicts and likeness of words, where their commands have been run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.metrics.measures import Measure
from exo2ego.errors import DataError
from exo2ego.intervals import clustered_interval
from exo2ego.records import Question
from exo2ego.storage import read_json

JUDGEMENTS_FILE = "judgements.json"
"""Written by `eval.judge`."""
LOWEST_SCORE, HIGHEST_SCORE = 0, 5
"""Of the judge."""
OPEN_SCORES_FILE = "open_scores.json"
"""Written by `eval.open_answers`."""
WORD_SCORES = ("exact_match", "rouge_l", "meteor", "similarity")


def open_measures(folder: Path, questions: Mapping[str, Question]) -> dict[str, list[Measure]]:
    """Returns the measures of open answers by task, from `judgements.json` and `open_scores.json` of a folder.

    Answers without a readable verdict are left out of the judge's measures. The score is divided by 5.
    """
    measures: dict[str, list[Measure]] = {}
    for row, name, key, scale in (
        (JUDGEMENTS_FILE, "judge_accuracy", "is_correct", 1),
        (JUDGEMENTS_FILE, "judge_score", "score", HIGHEST_SCORE),
        *((OPEN_SCORES_FILE, name, name, 1) for name in WORD_SCORES),
    ):
        for task, found in _values(folder / row, key, questions).items():
            values = [value / scale for value, _ in found]
            videos = [video for _, video in found]
            interval = clustered_interval(values, videos)
            measures.setdefault(task, []).append(Measure(name, sum(values) / len(values), interval, None, len(values)))
    return measures


@dataclass(frozen=True)
class JudgeAgreement:
    """How often a judge says of an answer what the rule `exact_match` says of it."""

    count: int
    """Answers with both."""
    num_equal: int
    num_exact: int
    """Answers that are the true one by the rule."""
    num_exact_accepted: int
    """Of these, accepted by the judge: what is below is the judge's error, or the rule's."""


def verdicts(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns what is known of every open answer, by question: the judge's verdict and the likeness of words."""
    found: dict[str, dict[str, Any]] = {}
    for name, keys in ((JUDGEMENTS_FILE, ("is_correct", "score")), (OPEN_SCORES_FILE, WORD_SCORES)):
        for row in _rows(folder / name):
            known = {key: row[key] for key in keys if row.get(key) is not None}
            found.setdefault(row["question_id"], {}).update(known)
    return found


def judge_agreement(folder: Path) -> JudgeAgreement | None:
    """Returns the agreement of judge and rule, None where one of them was not asked."""
    both = [row for row in verdicts(folder).values() if "is_correct" in row and "exact_match" in row]
    if not both:
        return None
    exact = [row for row in both if row["exact_match"]]
    return JudgeAgreement(
        count=len(both),
        num_equal=sum(bool(row["is_correct"]) == bool(row["exact_match"]) for row in both),
        num_exact=len(exact),
        num_exact_accepted=sum(bool(row["is_correct"]) for row in exact),
    )


def judge_of(folder: Path) -> dict[str, Any] | None:
    """Returns who judged, None where nobody did."""
    path = folder / JUDGEMENTS_FILE
    return read_json(path, "judgements")["judge"] if path.exists() else None


def _values(path: Path, key: str, questions: Mapping[str, Question]) -> dict[str, list[tuple[float, str]]]:
    found: dict[str, list[tuple[float, str]]] = {}
    for row in sorted(_rows(path), key=lambda row: str(row["question_id"])):
        question = questions.get(row["question_id"])
        if question is None:
            raise DataError(f"{path}: question {row['question_id']} is not in questions.jsonl; make the file again")
        if key not in row:
            raise DataError(f"{path}: question {row['question_id']} has no {key}; make the file again")
        if row[key] is not None:
            found.setdefault(question.task, []).append((float(row[key]), question.video))
    return found


def _rows(path: Path) -> Sequence[Mapping[str, Any]]:
    if not path.exists():
        return []
    content = read_json(path, "scores of open answers")
    rows: Sequence[Mapping[str, Any]] = content.get("judgements", content.get("scores", []))
    return rows
