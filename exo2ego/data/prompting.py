"""How instruction, question and options become the text of a user turn: one form for training and evaluation."""

from __future__ import annotations

import string
from collections.abc import Sequence

LETTERS = string.ascii_uppercase[:10]  # EgoMCQ has ten options (Exo2Ego §5.1)
CAPTION_REQUEST = "Describe what the camera wearer does."
LETTER_REQUEST = "Answer with the option's letter from the given choices directly and only give the best option."
"""How VideoLLaMA2 asks for a letter (its MVBench evaluation; not stated in the paper)."""


def option_lines(options: Sequence[str]) -> str:
    """Returns `Options:` and one lettered line per option, as in VideoLLaMA2's multiple-choice prompt.

    Raises `ValueError` for more than ten options.
    """
    if len(options) > len(LETTERS):
        raise ValueError(f"{len(options)} options, at most {len(LETTERS)} letters")
    lines = [f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join(["Options:", *lines])


def user_turn(instruction: str, question: str, options: Sequence[str] = ()) -> str:
    """Joins the non-empty parts of a turn by line breaks: instruction, question, lettered options."""
    parts = [instruction.strip(), question.strip(), option_lines(options) if options else ""]
    return "\n".join(part for part in parts if part)


def normal_form(text: str) -> str:
    """Returns the form in which two options count as the same: lower case, single spaces, no final dot."""
    return " ".join(text.lower().split()).rstrip(". ")
