"""How sentences speak of an event: verb forms, the thing, the place, and what else could be said in its stead."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass

from data_builders.synthetic.vocabulary import COLOURS, PLACES, SHAPES, SHAPES_OF_VERB, TABLE, VERBS, Verb
from data_builders.synthetic.world import Event

EVERY_PLACE = (*PLACES, TABLE)
EVERY_THING = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)


@dataclass(frozen=True)
class VerbForms:
    """The forms of a verb before its object, and its past with `it`."""

    base: str
    third: str
    past: str
    gerund: str
    past_it: str


FORMS: dict[Verb, VerbForms] = {
    "pick up": VerbForms("pick up", "picks up", "picked up", "picking up", "picked it up"),
    "put down": VerbForms("put down", "puts down", "put down", "putting down", "put it down"),
    "push": VerbForms("push", "pushes", "pushed", "pushing", "pushed it away"),
    "pull": VerbForms("pull", "pulls", "pulled", "pulling", "pulled it closer"),
    "rotate": VerbForms("rotate", "rotates", "rotated", "rotating", "rotated it"),
    "shake": VerbForms("shake", "shakes", "shook", "shaking", "shook it"),
    "pour": VerbForms(
        "pour water from", "pours water from", "poured water from", "pouring water from", "poured water from it"
    ),
    "open": VerbForms("open", "opens", "opened", "opening", "opened it"),
    "close": VerbForms("close", "closes", "closed", "closing", "closed it"),
}


def thing(event: Event) -> str:
    """Returns `red cup`; no two objects of a take have the same shape."""
    return f"{event.colour} {event.shape}"


def tail(event: Event) -> str:
    """Returns where it happens: `from the table`, `away onto the mat`, `in the air`."""
    if event.verb in ("push", "pull"):
        direction = "away" if event.verb == "push" else "closer"
        return f"{direction} across the {TABLE}" if event.place == TABLE else f"{direction} onto the {event.place}"
    preposition = {"pick up": "from", "shake": "in", "pour": "in"}.get(event.verb, "on")
    return f"{preposition} the {event.place}"


def told(event: Event, form: str, *, with_place: bool = False) -> str:
    """Returns `picks up the red cup` and, if asked, `… from the table`; `form` names a field of `VerbForms`."""
    words = f"{getattr(FORMS[event.verb], form)} the {thing(event)}"
    return f"{words} {tail(event)}" if with_place else words


def other_things(truth: str, chance: random.Random, count: int, but: Collection[str] = ()) -> list[str]:
    """Draws things that are neither the truth nor among `but`."""
    return chance.sample([name for name in EVERY_THING if name != truth and name not in but], count)


def other_places(truth: str) -> list[str]:
    """Returns the three places that are not the truth."""
    return [place for place in EVERY_PLACE if place != truth]


def other_verbs(event: Event, chance: random.Random, count: int) -> list[Verb]:
    """Draws verbs that the event's object allows and that are not its verb."""
    allowed = [verb for verb in VERBS if event.shape in SHAPES_OF_VERB[verb] and verb != event.verb]
    return chance.sample(allowed, count)
