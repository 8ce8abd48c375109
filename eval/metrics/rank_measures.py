"""The measures of tasks that the paper prints as mAP and nDCG: Charades-Ego and EK-100 MIR (docs/evaluation.md).

`option_mAP` and `option_nDCG` are what the paper's tables most probably hold. `class_mAP` and `graded_mAP`,
`graded_nDCG` are the official formulas on the few options that a question has: neither is comparable with numbers over
the full gallery, for which there are `python -m eval.charades` and `python -m eval.mir`. They need a score for every
option: on text that names one, or none, they would measure in which order the options happen to stand.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy
from numpy.typing import NDArray

from eval.metrics.class_average_precision import score_classes
from eval.metrics.graded_retrieval import score_retrieval
from eval.metrics.measures import Measure
from eval.metrics.option_ranking import RankScores, chance_of, score_by_choice, score_by_scores
from exo2ego.data.prompting import normal_form
from exo2ego.errors import DataError
from exo2ego.intervals import clustered_interval, jackknife_interval
from exo2ego.records import Prediction, Question

RANKED = ("charades_ego", "ek100_mir")


def rank_measures(task: str, scored: Sequence[Prediction], questions: Mapping[str, Question]) -> list[Measure]:
    """Returns the measures of labelled predictions of one task, none for a task that the paper prints as accuracy."""
    if task not in RANKED:
        return []
    measures = _option_measures(scored)
    asked = [questions[row.question_id] for row in scored if row.question_id in questions]
    if len(asked) < len(scored) or any(row.option_scores is None for row in scored):
        return measures  # predictions alone: what was asked is not at hand; or generated text
    if task == "charades_ego":
        return [*measures, _class_measure(scored, asked)]
    return measures + _graded_measures(scored, asked)


def _option_measures(scored: Sequence[Prediction]) -> list[Measure]:
    ranked = [rank_scores(row) for row in scored]
    chances = [chance_of(row.num_options) for row in scored]
    videos = [row.video for row in scored]

    def mean(name: str, values: Sequence[float], by_chance: Sequence[float]) -> Measure:
        chance = sum(by_chance) / len(by_chance)
        return Measure(name, sum(values) / len(values), clustered_interval(values, videos), chance, len(values))

    return [
        mean("option_mAP", [row.average_precision for row in ranked], [row.average_precision for row in chances]),
        mean("option_nDCG", [row.ndcg for row in ranked], [row.ndcg for row in chances]),
    ]


def rank_scores(row: Prediction) -> RankScores:
    """Scores the place of the truth of a labelled prediction, by option scores where there are any."""
    assert row.answer_index is not None
    if row.option_scores is not None:
        return score_by_scores(row.option_scores, row.answer_index)
    return score_by_choice(row.predicted_index, row.answer_index, row.num_options)


def _class_measure(scored: Sequence[Prediction], asked: Sequence[Question]) -> Measure:
    """The official formula over classes, where only a question's options have a score and only its truth is true."""
    classes: dict[str, int] = {}
    for question in asked:
        for option in question.options:
            classes.setdefault(normal_form(option), len(classes))
    scores = numpy.full((len(asked), len(classes)), -math.inf)
    truth = numpy.zeros((len(asked), len(classes)), dtype=numpy.uint8)
    for number, (row, question) in enumerate(zip(scored, asked, strict=True)):
        columns = [classes[normal_form(option)] for option in question.options]
        assert row.option_scores is not None
        assert row.answer_index is not None
        scores[number, columns] = row.option_scores
        truth[number, columns[row.answer_index]] = 1

    def mean_of(kept: NDArray[numpy.bool_]) -> float:
        return score_classes(truth[kept], scores[kept]).mean

    interval = jackknife_interval(mean_of, [row.video for row in scored])
    return Measure("class_mAP", score_classes(truth, scores).mean, interval, None, len(asked))


def _graded_measures(scored: Sequence[Prediction], asked: Sequence[Question]) -> list[Measure]:
    """The official formulas with the graded relevance of the options; a video's questions are scored together."""
    groups: dict[tuple[str, int], list[tuple[list[float], list[float]]]] = {}
    for row, question in zip(scored, asked, strict=True):
        relevance = question.meta.get("relevance")
        if relevance is None:
            return []
        if len(relevance) != len(question.options):
            raise DataError(
                f"question {question.question_id}: meta.relevance has {len(relevance)} values for "
                f"{len(question.options)} options; build the table again"
            )
        assert row.option_scores is not None
        groups.setdefault((row.video, row.num_options), []).append((row.option_scores, relevance))
    values: dict[str, list[float]] = {"graded_mAP": [], "graded_nDCG": []}
    videos: dict[str, list[str]] = {name: [] for name in values}
    for (video, _), rows in groups.items():
        found = score_retrieval(_matrix(row[0] for row in rows), _matrix(row[1] for row in rows))
        for name, mean, count in (
            ("graded_mAP", found.mean_average_precision, found.num_queries - found.num_without_target),
            ("graded_nDCG", found.ndcg, found.num_queries - found.num_without_relevant),
        ):
            values[name] += [mean] * count  # the variance between videos needs no more than their means
            videos[name] += [video] * count
    return [
        Measure(name, sum(found) / len(found), clustered_interval(found, videos[name]), None, len(found))
        for name, found in values.items()
        if found
    ]


def _matrix(rows: Iterable[list[float]]) -> NDArray[numpy.float64]:
    return numpy.array(list(rows), dtype=numpy.float64)
