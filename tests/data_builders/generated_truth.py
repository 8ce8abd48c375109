"""What a text claims about an event of the generated world: an oracle that knows none of the generator's sentences."""

from __future__ import annotations

import re

from data_builders.synthetic.vocabulary import COLOURS, PLACES, SHAPES
from data_builders.synthetic.world import Event

VERB_WORDS = {
    "pick up": r"pick\w*\b.*\bup|tak(?:e|es|ing)",
    "put down": r"put\w*",
    "push": r"push\w*",
    "pull": r"pull\w*",
    "rotate": r"rotat\w*|turn\w*|move around",
    "shake": r"sh(?:ak|ook)\w*",
    "pour": r"pour\w*",
    "open": r"open\w*",
    "close": r"close[sd]?|closing",
}
NOT_AN_ANSWER = {"both hands", "no hand", "maybe", "not sure"}
"""Options that are false of every event."""


def describes(text: str, event: Event) -> bool:
    """Whether everything that a text claims holds of an event; a text that claims nothing describes nothing."""
    text = text.lower().replace("_", " ")
    if text.strip(" .") in NOT_AN_ANSWER:
        return False
    words = set(re.findall(r"[a-z]+", text))
    hands = set(re.findall(r"\b(left|right) hand", text))
    claims: list[tuple[set[str], str]] = [
        (words & set(COLOURS), event.colour),
        (words & set(SHAPES), event.shape),
        (words & {*PLACES, "table", "air"}, event.place),
        (hands, event.hand),
    ]
    verbs = {verb for verb, pattern in VERB_WORDS.items() if re.search(rf"\b(?:{pattern})\b", text)}
    if re.search(r"\bmove\b(?! around)", text):
        verbs |= {event.verb} & {"push", "pull"} or {"move"}
    if "surface" in words:
        claims.append(({"table"}, event.place))
    said_anything = bool(verbs) or any(said for said, _ in claims)
    return said_anything and verbs <= {event.verb} and all(said <= {true} for said, true in claims)
