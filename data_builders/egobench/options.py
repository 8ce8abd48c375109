"""What the EgoBench builders share: how options are printed, and in which order they stand."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Literal

from data_builders.source import SourceOptions
from exo2ego.data.prompting import normal_form

OptionStyle = Literal["paper", "raw"]
_PRONOUN = re.compile(r"\bi\b")


class EgoBenchOptions(SourceOptions):
    """Options of every EgoBench builder."""

    option_style: OptionStyle = "paper"
    """How options are printed: lower-cased with a final dot, as in Table 12, or as the source writes them."""


def option_text(text: str, style: OptionStyle) -> str:
    """Returns an option as it is printed (Exo2Ego Table 12: lower case but for the pronoun I, with a final dot)."""
    return text if style == "raw" else _PRONOUN.sub("I", normal_form(text)) + "."


def shuffled_options(
    truth: str, wrong: Sequence[str], *, task: str, question_id: str, seed: int
) -> tuple[list[str], int]:
    """Returns all options in an order that depends on seed, task and id alone, and the index of the truth."""
    order = list(range(1 + len(wrong)))
    random.Random(f"{seed}/{task}/{question_id}").shuffle(order)
    texts = [truth, *wrong]
    return [texts[index] for index in order], order.index(0)


def repeated_truths(options: Sequence[str], answer_index: int) -> list[int]:
    """Returns the indices of the other options whose text is the truth's, but for case, spaces and the final dot."""
    truth = normal_form(options[answer_index])
    return [index for index, text in enumerate(options) if index != answer_index and normal_form(text) == truth]


def has_repeated_options(options: Sequence[str]) -> bool:
    """Says whether two options are the same text."""
    return len({normal_form(text) for text in options}) < len(options)
