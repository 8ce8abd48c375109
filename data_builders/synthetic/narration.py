"""What annotators write about the events: true sentences in two styles, at slightly different times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_builders.synthetic.vocabulary import TABLE, Verb
from data_builders.synthetic.world import Event

# Per verb: (with the place, without the place), in the words of the first and of the second annotator.
_FIRST: dict[Verb, tuple[str, str]] = {
    "pick up": ("picks up {thing} from the {place}", "picks up {thing}"),
    "put down": ("puts down {thing} on the {place}", "puts down {thing}"),
    "push": ("pushes {thing} away {goal}", "pushes {thing} away"),
    "pull": ("pulls {thing} closer {goal}", "pulls {thing} closer"),
    "rotate": ("rotates {thing} on the {place}", "rotates {thing}"),
    "shake": ("shakes {thing} in the {place}", "shakes {thing}"),
    "pour": ("pours water from {thing} in the {place}", "pours water from {thing}"),
    "open": ("opens {thing} on the {place}", "opens {thing}"),
    "close": ("closes {thing} on the {place}", "closes {thing}"),
}
_SECOND: dict[Verb, tuple[str, str]] = {
    "pick up": ("lifts {thing} off the {place}", "lifts {thing}"),
    "put down": ("places {thing} on the {place}", "places {thing} back"),
    "push": ("slides {thing} forward {goal}", "slides {thing} forward"),
    "pull": ("drags {thing} back {goal}", "drags {thing} back"),
    "rotate": ("turns {thing} around on the {place}", "turns {thing} around"),
    "shake": ("swings {thing} up and down in the {place}", "swings {thing} up and down"),
    "pour": ("tips water out of {thing} in the {place}", "tips water out of {thing}"),
    "open": ("flips open {thing} on the {place}", "flips open {thing}"),
    "close": ("shuts {thing} on the {place}", "shuts {thing}"),
}
STYLES = (_FIRST, _SECOND)
PLACE_SHARE = 0.6
"""Share of sentences that name the place."""


@dataclass(frozen=True)
class Narration:
    """A sentence about an event and the instant that the annotator gave to it."""

    text: str
    timestamp_s: float
    event: Event


def sentence(event: Event, style: int, pronoun: str, *, with_place: bool) -> str:
    """Returns what an annotator of `style` (0 or 1) writes: `C picks up the red cup with his left hand.`"""
    place = event.place
    predicate = STYLES[style][event.verb][0 if with_place else 1].format(
        thing=f"the {event.colour} {event.shape}",
        place=place,
        goal=f"across the {TABLE}" if place == TABLE else f"onto the {place}",
    )
    means = f"with {pronoun} {event.hand} hand" if style == 0 else f"using the {event.hand} hand"
    return f"C {predicate} {means}."


def narrate(events: list[Event], num_annotators: int, pronoun: str, rng: np.random.Generator) -> list[list[Narration]]:
    """Returns every annotator's narrations of a take, in time order.

    Two annotators name instants 0.10-0.30 s apart, on either side of the middle of the action, so that with Eq. 1 the
    clips of both are at least that long and show the action.
    """
    shifts = rng.uniform(0.05, 0.15, len(events)) * (1 if num_annotators == 2 else 0)
    signs = rng.choice([-1.0, 1.0], len(events))
    return [
        [
            Narration(
                text=sentence(event, annotator, pronoun, with_place=bool(rng.random() < PLACE_SHARE)),
                timestamp_s=round(float(event.timestamp_s + side * sign * shift + rng.uniform(-0.02, 0.02)), 5),
                event=event,
            )
            for event, sign, shift in zip(events, signs, shifts, strict=True)
        ]
        for annotator, side in zip(range(num_annotators), (-1.0, 1.0), strict=False)
    ]
