"""What can be told of multiple-choice questions without looking at a video: statistics of a table."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy

from data_builders.distractors.embeddings import embed
from data_builders.distractors.encoder import TextEncoder
from data_builders.distractors.search import DECIMALS
from exo2ego.data.prompting import normal_form
from exo2ego.intervals import clustered_interval

BINS_PER_UNIT = 20
"""Similarities are counted in bins of 0.05."""
NUM_SIMULATIONS = 10_000


@dataclass(frozen=True)
class Choice:
    """A multiple-choice question with a public answer."""

    question: str
    options: tuple[str, ...]
    answer_index: int
    video: str
    also_correct: tuple[int, ...] | None
    """Other options that are true as well; None where the data cannot tell."""
    similarities: tuple[float, ...] | None
    """Cosine of every option to the truth; None where the options were not made by similarity."""


def also_correct(choices: Sequence[Choice]) -> dict[str, Any] | None:
    """Returns how many questions have a distractor that is true as well, of those where the data can tell.

    The oracle knows all true options and takes one of them at random.
    """
    known = [choice for choice in choices if choice.also_correct is not None]
    if not known:
        return None
    by_number = Counter(len(choice.also_correct or ()) for choice in known)
    wrong = sum(len(choice.options) - 1 for choice in known)
    concerned = len(known) - by_number[0]
    return {
        "questions_that_tell": len(known),
        "questions_with_another_correct_option": concerned,
        "share_of_questions": concerned / len(known),
        "share_of_distractors": sum(number * count for number, count in by_number.items()) / max(1, wrong),
        "oracle_accuracy": sum(count / (1 + number) for number, count in by_number.items()) / len(known),
        "questions_by_number": {str(number): count for number, count in sorted(by_number.items())},
    }


def similarities(choices: Sequence[Choice]) -> dict[str, Any] | None:
    """Returns the distribution of the distractors' similarity to the truth: of all, and of the nearest per question."""
    of_wrong = [
        [value for index, value in enumerate(choice.similarities) if index != choice.answer_index]
        for choice in choices
        if choice.similarities is not None
    ]
    of_wrong = [values for values in of_wrong if values]
    if not of_wrong:
        return None
    every = numpy.array([value for values in of_wrong for value in values])
    nearest = numpy.array([max(values) for values in of_wrong])
    return {
        "bin": 1 / BINS_PER_UNIT,
        "all_distractors": _distribution(every),
        "nearest_distractor": _distribution(nearest),
    }


def _distribution(values: Any) -> dict[str, Any]:
    # The rounding keeps 0.15, which is not a float, in its own bin; 1.0 belongs to the last one.
    bins = numpy.minimum(numpy.floor((values * BINS_PER_UNIT).round(DECIMALS)), BINS_PER_UNIT - 1).astype(int)
    counts = Counter(bins.tolist())
    return {
        "count": len(values),
        "mean": float(values.mean()),
        "quantiles": {str(share): float(numpy.quantile(values, share)) for share in (0.05, 0.25, 0.5, 0.75, 0.95)},
        "histogram": [
            {"from": number / BINS_PER_UNIT, "count": counts[number]} for number in range(min(counts), max(counts) + 1)
        ],
    }


def position_balance(choices: Sequence[Choice]) -> dict[str, Any]:
    """Returns where the truth stands, and how often chance alone would put it as unevenly or more so.

    The probability is simulated (seeded), because the chi-square distribution does not hold for few questions.
    """
    sizes = Counter(len(choice.options) for choice in choices)
    observed = {size: numpy.zeros(size) for size in sizes}
    for choice in choices:
        observed[len(choice.options)][choice.answer_index] += 1
    rng = numpy.random.default_rng(0)
    statistic, simulated = 0.0, numpy.zeros(NUM_SIMULATIONS)
    for size, count in sorted(sizes.items()):
        expected = count / size
        statistic += float(((observed[size] - expected) ** 2 / expected).sum())
        draws = rng.multinomial(count, [1 / size] * size, NUM_SIMULATIONS)
        simulated += ((draws - expected) ** 2 / expected).sum(axis=1)
    positions = range(max(sizes))
    as_uneven = int((simulated >= statistic - 1e-9).sum())
    return {
        "counts": [
            int(sum(counts[place] for counts in observed.values() if place < len(counts))) for place in positions
        ],
        "expected": [sum(count / size for size, count in sizes.items() if place < size) for place in positions],
        "chi_square": statistic,
        "degrees_of_freedom": sum(size - 1 for size in sizes),
        "p": (1 + as_uneven) / (1 + NUM_SIMULATIONS),
    }


def blind_baselines(
    choices: Sequence[Choice], encoder: TextEncoder | None, cache: Path | None = None
) -> dict[str, dict[str, Any] | None]:
    """Returns the accuracy of answers that need no video; None where there is no encoder for the one that needs it.

    Options that a baseline cannot tell apart share the credit: the accuracy is the expected one of a random choice
    among them.
    """
    answered = {
        "longest_option": _longest(choices),
        "most_frequent_answer": _most_frequent(choices),
        "nearest_to_question": _nearest_to_question(choices, encoder, cache) if encoder is not None else None,
    }
    return {name: None if credits is None else _compared(credits, choices) for name, credits in answered.items()}


def _compared(credits: Sequence[float], choices: Sequence[Choice]) -> dict[str, Any]:
    interval = clustered_interval(credits, [choice.video for choice in choices])
    chance = math.fsum(1 / len(choice.options) for choice in choices) / len(choices)
    verdict = "above" if interval.low > chance else "below" if interval.high < chance else "not told from"
    return {
        "accuracy": sum(credits) / len(credits),
        "interval": asdict(interval),
        "chance": chance,
        "against_chance": verdict,
    }


def _credit(scores: Sequence[float], answer_index: int) -> float:
    """Returns the probability that a random choice among the highest scores is the answer."""
    best = max(scores)
    return (scores[answer_index] == best) / sum(score == best for score in scores)


def _longest(choices: Iterable[Choice]) -> list[float]:
    return [_credit([len(option) for option in choice.options], choice.answer_index) for choice in choices]


def _most_frequent(choices: Sequence[Choice]) -> list[float]:
    """Takes the option that most often is the answer in questions of other videos: a question must not tell itself."""
    counts: Counter[str] = Counter()
    of_video: Mapping[str, Counter[str]] = defaultdict(Counter)
    for choice in choices:
        answer = normal_form(choice.options[choice.answer_index])
        counts[answer] += 1
        of_video[choice.video][answer] += 1
    return [
        _credit([counts[form] - of_video[choice.video][form] for form in forms], choice.answer_index)
        for choice, forms in ((choice, list(map(normal_form, choice.options))) for choice in choices)
    ]


def _nearest_to_question(choices: Sequence[Choice], encoder: TextEncoder, cache: Path | None) -> list[float]:
    texts = {normal_form(text) for choice in choices for text in (choice.question, *choice.options)}
    place = {text: number for number, text in enumerate(sorted(texts))}
    vectors = embed(list(place), encoder, cache)
    credits = []
    for choice in choices:
        question = vectors[place[normal_form(choice.question)]].astype(numpy.float64)
        options = vectors[[place[normal_form(option)] for option in choice.options]].astype(numpy.float64)
        credits.append(_credit((options @ question).round(DECIMALS).tolist(), choice.answer_index))
    return credits
