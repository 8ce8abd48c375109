"""Questions about a take with their true answers and false ones, in the words of Ego4D's question datasets."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from data_builders.synthetic.sources.wording import (
    FORMS,
    other_places,
    other_things,
    other_verbs,
    tail,
    thing,
    told,
)
from data_builders.synthetic.world import Event


@dataclass(frozen=True)
class QuestionAndAnswer:
    """A question, its answer and three false ones."""

    question: str
    answer: str
    wrong: tuple[str, ...]
    events: tuple[int, ...]
    """Events that make the answer true, by their place in time order."""


def about_moment(event: Event, index: int, chance: random.Random) -> list[QuestionAndAnswer]:
    """Returns questions that the span of one event answers."""

    def ask(question: str, answer: str, *wrong: str) -> QuestionAndAnswer:
        return QuestionAndAnswer(question, answer, wrong, (index,))

    name, base = thing(event), FORMS[event.verb].base
    verbs = other_verbs(event, chance, 3)
    asked = [
        ask(f"What did I {base}?", f"the {name}", *(f"the {other}" for other in other_things(name, chance, 3))),
        ask(f"What did I do with the {name}?", FORMS[event.verb].past_it, *(FORMS[verb].past_it for verb in verbs)),
        _hand(event, index),
    ]
    if event.verb in ("pick up", "put down"):
        asked.append(_place(event, index))
    if chance.random() < 0.5:
        asked.append(ask(f"Did I {told(event, 'base')}?", "yes", "no", "maybe", "not sure"))
    else:
        asked.append(ask(f"Did I {FORMS[verbs[0]].base} the {name}?", "no", "yes", "maybe", "not sure"))
    return asked


def about_clip(events: Sequence[Event], chance: random.Random) -> Iterator[QuestionAndAnswer]:
    """Yields questions that the whole take answers, each with one answer only."""
    for index, event in enumerate(events):
        alike = [other for other in events if (other.verb, other.shape) == (event.verb, event.shape)]
        if len(alike) == 1:
            yield _hand(event, index)
            if event.verb in ("pick up", "put down"):
                yield _place(event, index)
            if index + 1 < len(events):
                yield from _following(events, index, chance)
        if event.verb == "put down" and event.place != "table":
            there = {thing(other) for other in events if (other.verb, other.place) == ("put down", event.place)}
            if len(there) == 1:
                wrong = tuple(f"the {other}" for other in other_things(thing(event), chance, 3))
                question = f"What did I put down on the {event.place}?"
                yield QuestionAndAnswer(question, f"the {thing(event)}", wrong, (index,))


def _following(events: Sequence[Event], index: int, chance: random.Random) -> Iterator[QuestionAndAnswer]:
    event, after = events[index], events[index + 1]
    truth = f"I {told(after, 'past')}"
    others = sorted({f"I {told(other, 'past')}" for other in events if told(other, "past") != told(after, "past")})
    if len(others) >= 3:
        question = f"What did I do right after I {told(event, 'past')}?"
        yield QuestionAndAnswer(question, truth, tuple(chance.sample(others, 3)), (index, index + 1))


def _hand(event: Event, index: int) -> QuestionAndAnswer:
    other = "right" if event.hand == "left" else "left"
    return QuestionAndAnswer(
        f"Which hand did I use to {told(event, 'base')}?",
        f"the {event.hand} hand",
        (f"the {other} hand", "both hands", "no hand"),
        (index,),
    )


def _place(event: Event, index: int) -> QuestionAndAnswer:
    picks = event.verb == "pick up"
    question = f"Where did I pick up the {thing(event)} from?" if picks else f"Where did I put down the {thing(event)}?"
    preposition = "from" if picks else "on"
    wrong = tuple(f"{preposition} the {place}" for place in other_places(event.place))
    return QuestionAndAnswer(question, tail(event), wrong, (index,))
