"""What may become an instruction of what a language model answered: plain sentences, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from exo2ego.data.prompting import normal_form
from exo2ego.raw.rows import describe_faults

MIN_CHARACTERS = 20
MAX_CHARACTERS = 400
QUOTED_WORDS = 4
"""An instruction that shares this many words in a row with a shown row gives that row away, or follows it."""

_FENCE = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL)
_PROSE = re.compile(r"[A-Z][A-Za-z0-9 ,.;:!?'’‘\"“”()–—-]*[.!?]")
_NO_PROSE = re.compile(r"(?:^|\s)-+\w|\w\.\w|\.\.|\bhttps?\b", re.IGNORECASE)
"""Options of commands, names of files and hosts, parents of folders."""
_WORD = re.compile(r"[^\W_]+")


class _Reply(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    instructions: Annotated[list[str], Field(min_length=1, max_length=100)]


def parse_reply(text: str) -> list[str]:
    """Returns the texts of an answer `{"instructions": [...]}`, in a code fence or not; raises `ValueError`."""
    fenced = _FENCE.fullmatch(text.strip())
    try:
        return _Reply.model_validate(json.loads(fenced[1] if fenced else text)).instructions
    except ValidationError as error:
        raise ValueError(f'not of the form {{"instructions": ["…"]}}: {describe_faults(error)}') from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not valid JSON ({error})") from error


def reason_to_refuse(text: str, taken: Collection[str], shown: Sequence[str]) -> str:
    """Returns why a text cannot become an instruction, empty where it can.

    `taken` are the normal forms of the instructions so far, `shown` the texts of rows that the model saw.
    """
    if not MIN_CHARACTERS <= len(text) <= MAX_CHARACTERS:
        return "too short or too long"
    if not _PROSE.fullmatch(text) or _NO_PROSE.search(text):
        return "not plain sentences"
    if normal_form(text) in taken:
        return "given twice"
    words = _words(text)
    return "repeats a row of the dataset" if any(_shares_words(words, _words(row)) for row in shown) else ""


def one_line(text: str) -> str:
    """Returns a text with single spaces."""
    return " ".join(text.split())


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _shares_words(words: Sequence[str], row: Sequence[str]) -> bool:
    length = min(QUOTED_WORDS, len(row))
    return length > 1 and not _runs(words, length).isdisjoint(_runs(row, length))


def _runs(words: Sequence[str], length: int) -> set[tuple[str, ...]]:
    return {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}
