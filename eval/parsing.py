"""Reads the chosen option from generated text; what does not name exactly one option is unparsed, never guessed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from exo2ego.data.prompting import LETTERS, normal_form

Rule = Literal["lone letter", "leading letter", "letter in parentheses", "stated letter", "option text"]


@dataclass(frozen=True)
class ParsedAnswer:
    """The option that a text names and the rule that found it; both None where it names none or several."""

    index: int | None = None
    rule: Rule | None = None


# A capital followed by a space is no answer: narrations begin with "C " (the camera wearer), sentences with "A ".
_LONE = re.compile(r"\(?([a-j])\)?[.:]?", re.ASCII | re.IGNORECASE)
_LEADING = re.compile(r"\(([A-Ja-j])\)|([A-J])(?:[.:)](?=\s|$)|(?=[ \t]*[\r\n]))", re.ASCII)
_PARENTHESES = re.compile(r"\(([A-Ja-j])\)", re.ASCII)
_STATED = re.compile(
    r"\b(?i:answer|option|choice)(?i:\s+(?:is|would be|should be))?\s*:?\s*(?i:(?:option|choice)\s+)?\(?([A-J])\)?"
    r"(?=[.,:;)!]|\s*$|\s+(?:because|is\s+(?:the\s+)?(?:correct|right|best)))",
    re.ASCII,
)
_LISTED = re.compile(r"\(([A-J])\)|^\s*([A-J])[.:)]\s", re.ASCII | re.MULTILINE)
_AND_ANOTHER = re.compile(r"[.:)]?\s*(?:,|/|\bor\b|\band\b)\s*\(?[A-J]\)?(?=[.,:;)]|\s*$)", re.ASCII)
# "not (B)" denies; "the camera wearer (C)" is a person
_NO_CHOICE = re.compile(
    r"(?:\b(?:not|nor|neither|except|wearer|person)|n't)\s+(?:(?:option|choice)\s+)?$", re.IGNORECASE
)
_MARKUP = str.maketrans("", "", '*_`"')


def parse_choice(output: str, options: Sequence[str]) -> ParsedAnswer:
    """Returns the one option that `output` names by letter or by its text, or an empty answer.

    The rules run in the order of `Rule`; a rule that finds two different options leaves the decision to the next one.
    """
    text = output.translate(_MARKUP).strip()
    letters = LETTERS[: len(options)]
    if lone := _LONE.fullmatch(text):
        return _answer(lone[1], letters, "lone letter")
    repeats_the_list = len(options) > 1 and set(letters) <= set(_found(_LISTED.finditer(text)))
    if not repeats_the_list:
        leading = _LEADING.match(text)
        if leading and not _AND_ANOTHER.match(text, leading.end()):
            found = _answer(leading[1] or leading[2], letters, "leading letter")
            if found.index is not None:
                return found
        inside = {letter for letter in _found(_chosen(_PARENTHESES, text)) if letter in letters}
        if len(inside) == 1:
            return _answer(inside.pop(), letters, "letter in parentheses")
    stated = {letter for letter in _found(_chosen(_STATED, text)) if letter in letters}
    if len(stated) == 1:
        return _answer(stated.pop(), letters, "stated letter")
    named = _options_in(text, options)
    return ParsedAnswer(named.pop(), "option text") if len(named) == 1 else ParsedAnswer()


def _answer(letter: str, letters: str, rule: Rule) -> ParsedAnswer:
    index = letters.find(letter.upper())
    return ParsedAnswer(index, rule) if index >= 0 else ParsedAnswer()


def _found(matches: Iterable[re.Match[str]]) -> list[str]:
    return [next(group for group in match.groups() if group).upper() for match in matches]


def _chosen(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    """Returns the matches that are not denied; "A or B" chooses neither."""
    matches = [match for match in pattern.finditer(text) if not _NO_CHOICE.search(text, 0, match.start())]
    return [] if any(_AND_ANOTHER.match(text, match.end()) for match in matches) else matches


def _options_in(text: str, options: Sequence[str]) -> set[int]:
    """Returns the options whose text occurs in `text`, not counting occurrences inside a longer option's text."""
    rest = normal_form(text)
    named: set[int] = set()
    forms = {index: normal_form(option) for index, option in enumerate(options)}
    for form in sorted({form for form in forms.values() if form}, key=lambda form: (-len(form), form)):
        rest, count = re.subn(rf"(?<!\w){re.escape(form)}(?!\w)", "\n", rest)
        if count:
            named |= {index for index, other in forms.items() if other == form}
    return named
