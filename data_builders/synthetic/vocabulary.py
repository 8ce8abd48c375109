"""The words of the generated world: what can be done, to what, with which hand, and where."""

from __future__ import annotations

from itertools import product
from typing import Literal

Verb = Literal["pick up", "put down", "push", "pull", "rotate", "shake", "pour", "open", "close"]
Hand = Literal["left", "right"]
Combination = tuple[Verb, str, str]
"""(verb, colour, shape)"""

SHAPES = ("cup", "box", "ball", "bottle", "plate")
COLOURS = ("red", "yellow", "green", "blue", "purple", "white")
HANDS: tuple[Hand, ...] = ("left", "right")
PLACES = ("tray", "mat", "board")
"""Marked places; everywhere else is the table."""
TABLE = "table"

SHAPES_OF_VERB: dict[Verb, tuple[str, ...]] = {
    "pick up": SHAPES,
    "put down": SHAPES,
    "push": SHAPES,
    "pull": SHAPES,
    "rotate": SHAPES,
    "shake": SHAPES,
    "pour": ("cup", "bottle"),
    "open": ("box", "bottle"),
    "close": ("box", "bottle"),
}
VERBS = tuple(SHAPES_OF_VERB)
GATING_VERBS: tuple[Verb, ...] = ("pick up", "put down")
"""Never held out: without them an object could not be shaken or poured at all."""


def combinations() -> list[Combination]:
    """Returns every (verb, colour, shape) that may be held out from training."""
    return [
        (verb, colour, shape)
        for verb, shapes in SHAPES_OF_VERB.items()
        if verb not in GATING_VERBS
        for colour, shape in product(COLOURS, shapes)
    ]
