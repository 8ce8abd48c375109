"""The generated world as symbols: objects in slots of a table, and a plan of legal actions of two hands on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import product
from typing import Literal

import numpy as np

from data_builders.synthetic.vocabulary import COLOURS, HANDS, PLACES, SHAPES, SHAPES_OF_VERB, TABLE, VERBS
from data_builders.synthetic.vocabulary import Combination, Hand, Verb
from exo2ego.records import Record

NUM_COLUMNS = 3
SLOTS = tuple(range(2 * NUM_COLUMNS))
"""Slot = row * 3 + column; row 0 is near the wearer, row 1 far from the wearer."""
SHORTEST_EVENT_S, LONGEST_EVENT_S = 0.8, 1.5


class Event(Record):
    """One action of the camera wearer, true of what the videos show between `start_s` and `end_s`."""

    start_s: float
    timestamp_s: float
    """Middle of the action; annotators narrate it at about this time."""
    end_s: float
    verb: Verb
    colour: str
    shape: str
    hand: Hand
    place: str
    """Where the object stands (pick up, rotate, open, close), arrives (put down, push, pull), or `air` (shake, pour)."""
    ego_visible: bool = True
    """Whether the object's centre is inside the egocentric frame at `timestamp_s`."""
    best_exo: str = ""
    """Exocentric camera that is nearest to the object."""

    @property
    def combination(self) -> Combination:
        """The (verb, colour, shape) of the event."""
        return self.verb, self.colour, self.shape


@dataclass(frozen=True)
class Item:
    """An object of a take."""

    colour: str
    shape: str


@dataclass(frozen=True)
class Action:
    """A legal next event: object index, the hand, and the slots it leaves and reaches (None: in the air)."""

    verb: Verb
    item: int
    hand: Hand
    source_slot: int | None
    target_slot: int | None


@dataclass(frozen=True)
class Step:
    """An action with its time span in seconds."""

    action: Action
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Plan:
    """What happens in a take."""

    items: tuple[Item, ...]
    first_slots: tuple[int, ...]
    first_lids: tuple[bool, ...]
    """Per item: whether its lid is open when the take begins."""
    place_of_slot: dict[int, str]
    steps: tuple[Step, ...]

    def event(self, step: Step) -> Event:
        """Returns the event of a step, without what only cameras know."""
        action, item = step.action, self.items[step.action.item]
        slot = action.source_slot if action.target_slot is None else action.target_slot
        return Event(
            start_s=round(step.start_s, 5),
            timestamp_s=round((step.start_s + step.end_s) / 2, 5),
            end_s=round(step.end_s, 5),
            verb=action.verb,
            colour=item.colour,
            shape=item.shape,
            hand=action.hand,
            place="air" if slot is None else self.place_of_slot.get(slot, TABLE),
        )


@dataclass
class _Table:
    """The mutable state while a plan is made."""

    items: tuple[Item, ...]
    slot_of: list[int | None]
    held_by: dict[Hand, int | None] = field(default_factory=lambda: dict.fromkeys(HANDS))
    lid_open: list[bool] = field(default_factory=list)

    def legal_actions(self) -> list[Action]:
        """Returns every action that the state allows."""
        free = [slot for slot in SLOTS if slot not in self.slot_of]
        actions: list[Action] = []
        for hand, held in self.held_by.items():
            if held is None:
                for item, slot in enumerate(self.slot_of):
                    if slot is not None:
                        actions += self._on_table(item, slot, hand, free)
            else:
                actions += [Action("put down", held, hand, None, slot) for slot in free]
                in_air: tuple[Verb, ...] = ("shake", "pour")
                actions += [Action(verb, held, hand, None, None) for verb in in_air]
        return [action for action in actions if self.items[action.item].shape in SHAPES_OF_VERB[action.verb]]

    def _on_table(self, item: int, slot: int, hand: Hand, free: list[int]) -> list[Action]:
        moves: list[tuple[Verb, int | None]] = [("pick up", None), ("rotate", slot)]
        moves.append(("close" if self.lid_open[item] else "open", slot))
        if slot < NUM_COLUMNS and slot + NUM_COLUMNS in free:
            moves.append(("push", slot + NUM_COLUMNS))
        if slot >= NUM_COLUMNS and slot - NUM_COLUMNS in free:
            moves.append(("pull", slot - NUM_COLUMNS))
        return [Action(verb, item, hand, slot, target) for verb, target in moves]

    def apply(self, action: Action) -> None:
        """Changes the state as the action does."""
        self.slot_of[action.item] = action.target_slot
        if action.verb in ("pick up", "put down"):
            self.held_by[action.hand] = action.item if action.verb == "pick up" else None
        elif action.verb in ("open", "close"):
            self.lid_open[action.item] = action.verb == "open"


def make_plan(rng: np.random.Generator, duration_s: float, forbidden: AbstractSet[Combination]) -> Plan:
    """Plans a take of `duration_s` seconds: events 0.8-1.5 s apart, verbs about equally often, none of `forbidden`."""
    pairs = list(product(COLOURS, SHAPES))
    items = tuple(Item(*pairs[index]) for index in rng.choice(len(pairs), size=rng.integers(3, 5), replace=False))
    slots = tuple(int(slot) for slot in rng.permutation(len(SLOTS))[: len(items)])
    lids = tuple(item.shape in SHAPES_OF_VERB["open"] and bool(rng.random() < 0.5) for item in items)
    marked = rng.permutation(len(SLOTS))[: len(PLACES)]
    places = {int(slot): place for slot, place in zip(marked, PLACES, strict=True)}
    table = _Table(items, list(slots), lid_open=list(lids))
    steps: list[Step] = []
    used: Counter[Verb] = Counter()
    start_s = float(rng.uniform(0.1, 0.5))
    while (end_s := start_s + float(rng.uniform(SHORTEST_EVENT_S, LONGEST_EVENT_S))) <= duration_s:
        action = _choose(rng, table, used, forbidden, steps[-1].action if steps else None)
        table.apply(action)
        used[action.verb] += 1
        steps.append(Step(action, start_s, end_s))
        start_s = end_s
    return Plan(items, slots, lids, places, tuple(steps))


def _choose(
    rng: np.random.Generator,
    table: _Table,
    used: Counter[Verb],
    forbidden: AbstractSet[Combination],
    last: Action | None,
) -> Action:
    """Picks a verb (rare ones so far are likelier), then one of its legal actions; avoids repeating the last one."""
    legal = [
        action
        for action in table.legal_actions()
        if (action.verb, table.items[action.item].colour, table.items[action.item].shape) not in forbidden
    ]
    fresh = [action for action in legal if last is None or (action.verb, action.item) != (last.verb, last.item)]
    by_verb = {verb: [action for action in fresh if action.verb == verb] for verb in VERBS}
    verbs = [verb for verb, actions in by_verb.items() if actions]
    weights = np.array([1.0 / (1 + used[verb]) ** 2 for verb in verbs])
    verb = verbs[rng.choice(len(verbs), p=weights / weights.sum())]
    return by_verb[verb][rng.integers(len(by_verb[verb]))]


Split = Literal["train", "val", "test"]
