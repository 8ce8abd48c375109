"""Calibration by hand, at its limits, and by simulation of a model whose confidence is right."""

from __future__ import annotations

import math

import numpy
import pytest

from eval.metrics.calibration import calibrate, option_probabilities
from exo2ego.records import Prediction


def answer(number: int, scores: list[float] | None, truth: int = 0) -> Prediction:
    chosen = scores.index(max(scores)) if scores else 0
    return Prediction(
        id=f"q{number}",
        task="t",
        mode="letter" if scores else "generate",
        prompt_hash="h",
        option_scores=scores,
        predicted_index=chosen,
        answer_index=truth,
        num_options=len(scores) if scores else 2,
        video=f"v{number % 7}",
        seconds=0.1,
    )


def two(probability: float) -> list[float]:
    return [math.log(probability), math.log(1 - probability)]


def test_probabilities_are_a_softmax() -> None:
    assert option_probabilities([0.0, math.log(3)]) == pytest.approx([0.25, 0.75])
    assert option_probabilities([-1000.0, -1001.0]) == pytest.approx(option_probabilities([0.0, -1.0]))
    assert option_probabilities([-1e9, 0.0]) == [0.0, 1.0]


def test_hand_computed_error() -> None:
    # two answers of confidence .9, one right: gap .4; two of .65 (bin .6 to .7), both right: gap .35
    rows = [answer(0, two(0.9)), answer(1, two(0.9), 1), answer(2, two(0.65)), answer(3, two(0.65))]
    found = calibrate(rows)
    assert found is not None
    assert [(one.low, one.high, one.count, one.accuracy) for one in found.bins] == [
        (0.6, 0.7, 2, 1.0),
        (0.8, 0.9, 2, 0.5),
    ]
    assert [one.confidence for one in found.bins] == pytest.approx([0.65, 0.9])
    assert found.error == pytest.approx((2 * 0.4 + 2 * 0.35) / 4)
    assert found.confidence == pytest.approx(0.775)
    by_luck = math.sqrt(2 / math.pi) * (math.sqrt(2 * 0.09) + math.sqrt(2 * 0.65 * 0.35)) / 4
    assert found.error_by_luck == pytest.approx(by_luck)


def test_certain_answers_have_a_bin() -> None:
    found = calibrate([answer(number, [0.0, -1e9]) for number in range(3)])
    assert found is not None
    assert [(one.low, one.high, one.confidence) for one in found.bins] == [(0.9, 1.0, 1.0)]
    assert (found.error, found.error_by_luck) == (0.0, 0.0)


def test_generated_answers_have_none() -> None:
    assert calibrate([answer(0, None)]) is None
    assert calibrate([]) is None


@pytest.mark.parametrize("count", [60, 1000])
def test_a_calibrated_model_shows_the_error_by_luck(count: int) -> None:
    generator = numpy.random.default_rng(count)
    errors, expected = [], []
    for _ in range(40):
        confidences = generator.uniform(0.5, 1, count)
        right = generator.random(count) < confidences
        rows = [
            answer(number, two(float(confidence)), int(not hit))
            for number, (confidence, hit) in enumerate(zip(confidences, right, strict=True))
        ]
        found = calibrate(rows)
        assert found is not None
        errors.append(found.error)
        expected.append(found.error_by_luck)
    assert numpy.mean(errors) == pytest.approx(numpy.mean(expected), rel=0.15)  # 40 draws: standard error about .05
