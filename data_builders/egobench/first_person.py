"""What is said of the camera wearer, said by the camera wearer: by rules, which leave some grammar as it was.

Exo2Ego Table 12 shows such texts ("I drop the plate in her right hand inside the cupboard", "I holds lady w hair"); how
they were made is not stated.
"""

from __future__ import annotations

import re
from typing import Literal

Person = Literal["first", "subject", "raw"]

_QUESTION_RULES = [
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        (r"\b(?:the person|he/she)'s\b", "my"),
        (r"\bis (?:the person|he/she)\b", "am I"),
        (r"\bdoes (?:the person|he/she)\b", "do I"),
        (r"\bhas (?:the person|he/she)\b", "have I"),
        (r"\b(?:the person|he/she) is\b", "I am"),
        (r"\b(?:the person|he/she) does\b", "I do"),
        (r"\b(?:the person|he/she) has\b", "I have"),
        (r"\b(?:the person|he/she)\b", "I"),
        (r"\bhis/her\b", "my"),
        (r"\bhim/her\b", "me"),
    )
]
_WEARER = re.compile(r"(?:#\s*C\b\s*(?:C\b)?|C\b)\s*", re.IGNORECASE)
"""The subject of a narration about the wearer: `#C C`."""
_ANOTHER = re.compile(r"#\s*[OX]\b\s*", re.IGNORECASE)
"""The mark of a narration about another person."""
_PERSONS = re.compile(r"#[OX]\b|\b(?:man|woman|lady|girl|boy|person|child|kid|baby|[ABD-HJ-Z])\b")
"""Whose "his" and "her" may be meant, where it is not the wearer's; other people are called man X, lady Y, …"""
_VERB = re.compile(r"(?P<adverbs>(?:(?:\w+ly|then|also|again|still|just)\s+)*)(?P<verb>[^\W\d_]+)")
_IRREGULAR = (
    {"is": "am", "has": "have", "does": "do", "goes": "go", "ties": "tie", "unties": "untie", "lies": "lie"}
    | {"caches": "cache", "aches": "ache", "focuses": "focus", "refocuses": "refocus"}
    | {"hoes": "hoe", "tiptoes": "tiptoe", "dies": "die"}
)
_HISSING = ("sses", "shes", "ches", "xes", "zzes", "oes")
_NOT_OWNED = r"an?|the|this|that|these|those|some|another|to|with|from|for|at|in|into|on|onto|by|and"
_HER_OWN = re.compile(rf"\b(?:his|her)(?= \w)(?! (?:{_NOT_OWNED})\b)")
"""A possessive: "her cup", but not "passes her the knife", "looks at her in the mirror"."""


def ask_in_first_person(question: str) -> str:
    """Returns a question about "the person" as one about "I"; "the other person" stays."""
    for pattern, replacement in _QUESTION_RULES:
        question = pattern.sub(replacement, question)
    return question[:1].upper() + question[1:]


def tell_in_first_person(narration: str, person: Person) -> str:
    """Returns an Ego4D narration as the wearer would tell it.

    `first`: `#C C picks his cup` becomes `I pick my cup`, `#O` of other persons goes, `#unsure` becomes `something`.
    `subject`: `#C C` alone becomes `I`. `raw`: as it is.
    """
    if person == "raw":
        return narration
    subject = _WEARER.match(narration)
    if person == "subject":
        return f"I {narration[subject.end() :]}".strip() if subject else narration
    told = _told_by_wearer(narration[subject.end() :]) if subject else _ANOTHER.sub("", narration, count=1)
    told = re.sub(r"(?:\b(?:the|a|an)\s+)?#\s*unsure\b", "something", told, flags=re.IGNORECASE)
    told = re.sub(r"\bC\b", "me", re.sub(r"\bC's\b", "my", told))
    return " ".join(told.split()) or narration


def _told_by_wearer(rest: str) -> str:
    """Returns what the wearer does, without its subject, as a sentence that begins with `I` or `my`."""
    if rest.startswith("'s "):
        return "my" + rest[2:]
    if not _PERSONS.search(rest):
        rest = _HER_OWN.sub("my", rest)
        rest = re.sub(r"\b(?:himself|herself)\b", "myself", rest)
    found = _VERB.match(rest)
    if found is None:
        return f"I {rest}"
    return f"I {found['adverbs']}{base_form(found['verb'])}{rest[found.end() :]}"


def base_form(verb: str) -> str:
    """Returns the form of a verb that follows `I`: `pick` for `picks`, `carry` for `carries`, `am` for `is`."""
    lowered = verb.lower()
    if lowered in _IRREGULAR:
        return _IRREGULAR[lowered]
    if len(lowered) <= 3 or not lowered.endswith("s") or lowered.endswith(("ss", "us", "is")):
        return verb
    if lowered.endswith("ies"):
        return f"{lowered[:-3]}y"
    return lowered[:-2] if lowered.endswith(_HISSING) else lowered[:-1]
