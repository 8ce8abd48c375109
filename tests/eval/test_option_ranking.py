"""Ranks among options: golden numbers, ties, and answers that name one option."""

from __future__ import annotations

import json
from itertools import permutations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.metrics.option_ranking import chance_of, score_by_choice, score_by_scores
from exo2ego.errors import EvaluationError
from tests.shared_data import shared_path


def test_golden_scores() -> None:
    golden = json.loads(shared_path("data/golden/mcq5.json").read_text(encoding="utf-8"))
    questions = [score_by_scores(row, 0) for row in numpy.random.default_rng(0).random((9668, 5)).tolist()]
    average_precision = sum(row.average_precision for row in questions) / len(questions)
    assert average_precision == pytest.approx(golden["AP_single_positive_mean (=MRR)"], abs=1e-9)
    gain = sum(row.ndcg for row in questions) / len(questions)
    assert gain == pytest.approx(golden["nDCG_single_positive 1/log2(1+rank)"], abs=1e-9)
    assert chance_of(5).average_precision == pytest.approx(golden["theory_chance_5"]["MRR"])
    assert chance_of(5).ndcg == pytest.approx(golden["theory_chance_5"]["nDCG"])
    wrong = score_by_choice(1, 0, 5)
    assert f"p + (1-p)*{wrong.average_precision:.16f}" == golden["theory_if_top1_acc_is_p_and_rest_random"]["MRR"]
    assert wrong.ndcg == pytest.approx(float(golden["theory_if_top1_acc_is_p_and_rest_random"]["nDCG"].split("*")[1]))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=5))
def test_ties_are_the_mean_over_all_orders(scores: list[int]) -> None:
    """Every order in which equal scores may stand is equally likely."""
    ranks = []
    for order in permutations(range(len(scores))):
        if all(scores[order[place]] >= scores[order[place + 1]] for place in range(len(order) - 1)):
            ranks.append(order.index(0) + 1)
    found = score_by_scores([float(score) for score in scores], 0)
    assert found.average_precision == pytest.approx(sum(1 / rank for rank in ranks) / len(ranks))
    assert found.ndcg == pytest.approx(sum(1 / numpy.log2(1 + rank) for rank in ranks) / len(ranks))


def test_a_choice_is_its_expected_rank() -> None:
    assert score_by_choice(2, 2, 5).average_precision == score_by_choice(2, 2, 5).ndcg == 1
    assert score_by_choice(None, 2, 5).average_precision == 0.2  # no answer is not better than a wrong one
    assert score_by_choice(1, 0, 5).average_precision > 0.2


def test_scores_that_are_none() -> None:
    with pytest.raises(EvaluationError, match="not finite"):
        score_by_scores([0.1, float("nan")], 0)
