"""The measures of open questions: a judge's verdicts and likeness of words, where their commands have been run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.judge import HIGHEST_SCORE, JUDGEMENTS_FILE
from eval.measures import Measure
from eval.open_answers import OPEN_SCORES_FILE
from exo2ego.errors import DataError
from exo2ego.intervals import clustered_interval, clustered_mean_interval
from exo2ego.records import Question
from exo2ego.storage import read_json

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
            is_share = key in ("is_correct", "exact_match")
            interval = (clustered_interval if is_share else clustered_mean_interval)(values, videos)
            measures.setdefault(task, []).append(Measure(name, sum(values) / len(values), interval, None, len(values)))
    return measures


def judge_of(folder: Path) -> dict[str, Any] | None:
    """Returns who judged, None where nobody did."""
    path = folder / JUDGEMENTS_FILE
    return read_json(path, "judgements")["judge"] if path.exists() else None


def _values(path: Path, key: str, questions: Mapping[str, Question]) -> dict[str, list[tuple[float, str]]]:
    if not path.exists():
        return {}
    content = read_json(path, "scores of open answers")
    rows: Sequence[Mapping[str, Any]] = content.get("judgements", content.get("scores", []))
    found: dict[str, list[tuple[float, str]]] = {}
    for row in sorted(rows, key=lambda row: str(row["question_id"])):
        question = questions.get(row["question_id"])
        if question is None:
            raise DataError(f"{path}: question {row['question_id']} is not in questions.jsonl; make the file again")
        if row[key] is not None:
            found.setdefault(question.task, []).append((float(row[key]), question.video))
    return found
