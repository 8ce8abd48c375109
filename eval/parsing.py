"""Reads the chosen option from generated text; what does not choose exactly one option is unparsed, never guessed.

Every mention of an option, by its letter or its text, gets a standing from the few words around it. An option is chosen
when the text affirms it alone and nowhere denies it. The rules in words: docs/evaluation.md, "Reading generated text".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from exo2ego.data.prompting import LETTERS, normal_form

PARSER = "strict@1"
"""Part of a run's key: answers that were read by other rules are never mixed."""
LONGEST_TEXT_CHARACTERS = 8000
"""What stands behind is not read."""
CONTEXT_CHARACTERS = 80
"""How far to either side the words around a mention are read."""
_MARKS = "".join(chr(0xE000 + index) for index in range(len(LETTERS)))
"""Stand in the text for the options' texts; private characters, which are taken out of the text before."""


class Standing(Enum):
    """What a text says of an option that it mentions."""

    STATED = auto()
    """As in "The answer is B", "B is correct", or B alone on its line."""
    LEADING = auto()
    """A label at the start of a line, as in "B. C opens the box"."""
    TEXT = auto()
    """The option's text without such words."""
    POSSIBLE = auto()
    """As in "it might be B": never chosen, and a rival of what is."""
    NAMED = auto()
    """A letter of which nothing of this is said, as in "vitamin (C)"."""
    DENIED = auto()
    """As in "not B", "B is wrong"."""


@dataclass(frozen=True)
class ParsedAnswer:
    """The option that a text chooses, None where it chooses none."""

    index: int | None = None


@dataclass(frozen=True)
class _Mentions:
    """Mentions of options of which the same is said: "(B)", "A or B", "B: C opens the box"."""

    start: int
    end: int
    options: frozenset[int]
    has_letter: bool
    has_text: bool
    is_bracketed: bool
    ends_with_text: bool

    def joined(self, other: _Mentions) -> _Mentions:
        return _Mentions(
            self.start,
            other.end,
            self.options | other.options,
            self.has_letter or other.has_letter,
            self.has_text or other.has_text,
            self.is_bracketed or other.is_bracketed,
            other.ends_with_text,
        )


def parse_choice(output: str, options: Sequence[str]) -> ParsedAnswer:
    """Returns the one option that `output` chooses by letter or by text, or an empty answer."""
    text = _with_marks(plain_text(output), options)
    found: dict[Standing, set[int]] = {standing: set() for standing in Standing}
    groups = list(_mentions(text))
    ends = [0, *(group.end for group in groups)]
    starts = [*(group.start for group in groups[1:]), len(text)]
    for group, previous_end, next_start in zip(groups, ends, starts, strict=False):
        found[_standing(text, group, previous_end, next_start)] |= group.options
    stated, leading = found[Standing.STATED], found[Standing.LEADING]
    affirmed = stated | (leading if len(leading) == 1 or not stated else set())  # several labels: the list, repeated
    rivals = found[Standing.POSSIBLE] | (set() if stated else found[Standing.NAMED])
    if not affirmed and not _DOUBT.search(text):
        affirmed = found[Standing.TEXT]
    if len(affirmed) != 1 or rivals - affirmed or affirmed & found[Standing.DENIED]:
        return ParsedAnswer()
    (index,) = affirmed
    return ParsedAnswer(index if index < len(options) else None)


_INVISIBLE = ("Cf", "Co")
"""Categories of signs without a form (zero-width, direction) and of private ones."""
_SIGNS = str.maketrans(
    {
        **dict.fromkeys('*`"“”$', ""),
        **dict.fromkeys("[{<", "("),
        **dict.fromkeys("]}>", ")"),
        **dict.fromkeys("’‘", "'"),
        **dict.fromkeys("–—−", "-"),
        "。": ".",
        "、": ",",
        "\r": "\n",
    }
)
_TAG = re.compile(r"</?(?:[a-z][^<>\s]{1,30}|s)>|<\|[^<>|\s]{1,30}\|>|\\[a-z]{1,20}(?=\{)", re.IGNORECASE)
_REWRITTEN = (
    (re.compile(r"(?<!\w)['_]+|['_]+(?!\w)"), ""),  # quotes and emphasis; apostrophes and turn_on stay
    (re.compile(r"[^\S\n]+"), " "),
    (re.compile(r" ?\n\s*"), "\n"),
    (re.compile(r"答案[是为]?|选项?"), " answer is "),
    (re.compile(r"\b(all|anything|everything) but\b", re.IGNORECASE), "except"),
    (re.compile(r"\b(the (?:camera )?wearer|person|participant),? \(?C\)?(?!\w)", re.IGNORECASE), r"\1"),
    (re.compile(r"(?<!\w)C,? \(?(the (?:camera )?wearer)\)?", re.IGNORECASE), r"\1"),
    (re.compile(r"\(c\)(?= ?(?:\d{4}\b|copyright))", re.IGNORECASE), ""),
)


def plain_text(text: str) -> str:
    """Returns a text in plain letters and signs: without markup, tags and invisible characters, all brackets round."""
    text = unicodedata.normalize("NFKC", text[:LONGEST_TEXT_CHARACTERS])[:LONGEST_TEXT_CHARACTERS]
    text = "".join(character for character in text if unicodedata.category(character) not in _INVISIBLE)
    text = _TAG.sub(" ", text).translate(_SIGNS)
    for pattern, replacement in _REWRITTEN:
        text = pattern.sub(replacement, text)
    return text.strip()


_SPOKEN = frozenset(
    ("yes", "no", "not", "none", "right", "wrong", "correct", "incorrect", "true", "false", "best", "both", "neither")
)
"""Words with which answers are given: an option of nothing else is read where it is the whole answer."""


def _with_marks(text: str, options: Sequence[str]) -> str:
    """Puts a mark in the place of every option's text; a text inside a longer option's is not marked."""
    forms = [normal_form(plain_text(option)) for option in options]
    indices = {form: index for index, form in enumerate(forms) if forms.count(form) == 1 and _is_readable(form)}
    ordered = sorted(indices, key=len, reverse=True)
    spoken = [form for form in ordered if _SPOKEN.issuperset(re.findall(r"\w+", form))]
    others = "|".join(re.escape(form) for form in ordered if form not in spoken)
    if others:  # whole words: "2" is not in "1.5", "left" not in "left-hand"
        pattern = re.compile(rf"(?<!\w)(?<!\w[-,/'])(?<!\d\.)(?:{others})(?![-.,/']?\w)", re.IGNORECASE)
        text = pattern.sub(lambda match: _mark(match[0], indices), text)
    if spoken:
        whole = re.compile(
            rf"(^|[.:)] ?|\banswer is )({'|'.join(map(re.escape, spoken))})(?=[.!)]*(?:$| \(?[A-J][.:)]))",
            re.IGNORECASE | re.MULTILINE,
        )
        text = whole.sub(lambda match: match[1] + _mark(match[2], indices), text)
    return text


def _is_readable(form: str) -> bool:
    """Tells whether an option's text is more than signs and a lone letter, which would be taken for the label's."""
    return re.fullmatch(r"\W*[a-j]?\W*", form) is None


def _mark(text: str, indices: dict[str, int]) -> str:
    index = indices.get(normal_form(text))
    return text if index is None else _MARKS[index]


_GOOD = r"(?:correct|right|best|true|accurate|the answer|the one)\b"
_BAD = r"(?:wrong|incorrect|false|impossible|unlikely|inaccurate|excluded|eliminated|(?:ruled )?out)\b"
_IS = r"(?:is|are|was|were|seems|looks|appears|must be|would be|should be)"
_IS_NOT = rf"(?:{_IS} not|isn't|aren't|wasn't|can't be|cannot be|can not be|does not|doesn't|did not|didn't)"
_SOME = r"(?:(?:\w{2,12}ly|also|both|the|only|most) ){0,2}"

# A capital before a plain word is no mention: narrations begin with "C " (the camera wearer), sentences with "A ".
_AFTER_A_CAPITAL = (
    rf"$|[,:;!?)/&+]|\.(?!\w| [a-z]\.)| [-(/&+{_MARKS}]| [A-J](?!\w)"
    rf"| (?:and|or|nor|but|because|since|not|rather|instead|as well)\b| (?:{_IS}|{_IS_NOT}) {_SOME}(?:{_GOOD}|{_BAD})"
)
_MENTION = re.compile(
    rf"\( ?(?P<bracketed>[A-Ja-j])[.:]? ?\)"
    rf"|(?<![\w'-])(?<!\w\.)(?P<capital>[A-J])(?={_AFTER_A_CAPITAL})"
    rf"|(?:^\(?|\b(?:answer|option|choice|letter)(?: is)? ?[:=]? ?\(?)(?P<small>[a-j])(?=[.!)]*$)"
    rf"|^(?P<item>[a-j])(?=\) )"
    rf"|(?P<mark>[{_MARKS}])",
    re.MULTILINE,
)
_NAME = r"(?:(?:possibly|maybe|perhaps|also|even|either|both|option|choice|letter|the|answer) )*"
_JOINS_EQUALS = re.compile(rf"\)? ?(?:[,/&+] ?)*(?:(?:and|or|nor|as well as|then|plus)\b ?)?{_NAME}\(?", re.IGNORECASE)
_JOINS_LETTER_AND_TEXT = re.compile(r"[ .:),(-]*")


def _mentions(text: str) -> Iterator[_Mentions]:
    """Yields the mentions of options, those that are joined as one."""
    last: _Mentions | None = None
    for match in _MENTION.finditer(text):
        kind = match.lastgroup or ""
        is_text = kind == "mark"
        index = _MARKS.index(match[kind]) if is_text else LETTERS.index(match[kind].upper())
        start, end = match.span(0 if kind == "bracketed" else kind)
        new = _Mentions(start, end, frozenset({index}), not is_text, is_text, kind == "bracketed", is_text)
        if last is not None:
            join = _JOINS_EQUALS if last.ends_with_text == is_text else _JOINS_LETTER_AND_TEXT
            if start - last.end <= CONTEXT_CHARACTERS and join.fullmatch(text, last.end, start):
                last = last.joined(new)
                continue
            yield last
        last = new
    if last is not None:
        yield last


_SENTENCE_END = re.compile(r"[.!?;:](?= |$)|[:;]")
_CLAUSE_END = re.compile(r",|\b(?:but|so|therefore|thus|hence|then)\b", re.IGNORECASE)
_DENIAL = (
    r"\b(?:not|cannot|no|nor|neither|never|none|nothing|except|excluding|without|unlike|than|instead of|wrong|incorrect"
    r"|false|reject\w*|eliminat\w+|exclud\w+|discard\w*|(?:rule[sd]?|ruling) out)\b|n't\b"
)
_HEDGE = r"\b(?:maybe|perhaps|possibly|could|might|may|either|between|if|whether|both|unless|assuming)\b"
_DENIED_BEFORE, _HEDGED_BEFORE = re.compile(_DENIAL, re.IGNORECASE), re.compile(_HEDGE, re.IGNORECASE)
_DOUBT = re.compile(rf"{_DENIAL}|{_HEDGE}", re.IGNORECASE)
_DENIED_AFTER = re.compile(
    rf"[ .:)-]*(?:{_IS_NOT}\b|{_IS} {_SOME}(?:not\b|{_BAD})|can be {_BAD}|{_BAD}|not {_GOOD}|no\b)", re.IGNORECASE
)
_AFFIRMED_AFTER = re.compile(
    rf"[ .:)]*{_IS} {_SOME}{_GOOD}|[ .,:;)-]*(?:because|since)\b"
    rf"|[ ,(]*(?:not|rather than|instead of) (?:option |choice )?[(A-J{_MARKS}]$",
    re.IGNORECASE,
)
_BE = r"(?:is|was|would be|should be|must be|will be|has to be)"
_FILLER = (
    r"(?:(?:the|an?|option|choice|letter|answer|clearly|definitely|most|likely|probably|therefore|correct|best)[ :=]*)*"
)
_LEAD = re.compile(
    rf"\b(?:(?:answer|solution)(?: {_BE})?|(?:option|choice|letter) {_BE}|(?:it|this|that|which) {_BE}|(?:it|that)'s"
    rf"|(?:option|choice|letter) ?[:=]|\bI(?:'d|'ll| would| will)? (?:choose|chose|select|pick|go with|vote for))"
    rf"[ :=(>-]*{_FILLER}\(?$",
    re.IGNORECASE,
)
_SOFT_LEAD = re.compile(
    rf"\b(?:option|choice|letter|I (?:think|believe|guess|would say)|but|rather|so|thus|therefore|hence)"
    rf"[ ,:=(>-]*{_FILLER}\(?$",
    re.IGNORECASE,
)
_ENDS_CLAUSE = re.compile(r"[) ]*(?:$|[.!;,](?: |$))")
_ENDS_LINE = re.compile(r"[) ]*(?:$|[!;]|[.,:] ?$)")
_PREDICATE = re.compile(
    r"[ .:)-]*(?:is|are|was|were|has|have|can|could|may|might|would|will|should|does|did|and|or|but|also|too|as|while"
    r"|(?:show|fail|seem|look|appear|depict|describe)s?)\b",
    re.IGNORECASE,
)
_BULLETS = " -•>#("


def _standing(text: str, group: _Mentions, previous_end: int, next_start: int) -> Standing:
    """Returns what the words around mentions say of them, from the former ones or the line's start to the next."""
    before = text[max(previous_end, group.start - CONTEXT_CHARACTERS) : group.start]
    before = before.rpartition("\n")[2]
    # with the first character of the next mention, so that only what ends a line matches `$`
    after = text[group.end : min(next_start + 1, group.end + CONTEXT_CHARACTERS)].partition("\n")[0]
    sentence = _SENTENCE_END.split(before)[-1]
    clause = _CLAUSE_END.split(sentence)[-1]
    if _DENIED_BEFORE.search(clause) or _DENIED_AFTER.match(after):
        return Standing.DENIED
    if _HEDGED_BEFORE.search(clause):
        return Standing.POSSIBLE
    if after.lstrip(" )").startswith("?"):
        return Standing.NAMED
    if _LEAD.search(before) or _AFFIRMED_AFTER.match(after):
        return Standing.STATED
    is_labelled_text = group.has_letter and group.has_text
    is_alone = not sentence.strip(_BULLETS) and _ENDS_LINE.match(after) and not is_labelled_text
    if is_alone or (_SOFT_LEAD.search(before) and _ENDS_CLAUSE.match(after)):
        return Standing.STATED
    if not group.has_letter:
        return Standing.TEXT
    is_label = is_labelled_text or group.is_bracketed or after.startswith((".", ":", ")", " -"))
    return (
        Standing.LEADING if is_label and not before.strip(_BULLETS) and not _PREDICATE.match(after) else Standing.NAMED
    )
