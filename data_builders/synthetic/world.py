"""The generated world as symbols: objects in slots of a table, and a plan of legal actions of two hands on them."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import numpy as np

from data_builders.synthetic.vocabulary import (
    COLOURS,
    HANDS,
    PLACES,
    SHAPES,
    SHAPES_OF_VERB,
    TABLE,
    VERBS,
    Combination,
    Hand,
    Verb,
)
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
    """Where the object stood (pick up), stands (rotate, open, close), arrives (put down, push, pull), or `air`."""
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
                actions.append(Action("shake", held, hand, None, None))
                if self.lid_open[held] or self.items[held].shape not in SHAPES_OF_VERB["open"]:
                    actions.append(Action("pour", held, hand, None, None))
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
    items = _choose_items(rng)
    slots = tuple(int(slot) for slot in rng.permutation(len(SLOTS))[: len(items)])
    lids = tuple(item.shape in SHAPES_OF_VERB["open"] and bool(rng.random() < 0.5) for item in items)
    marked = rng.permutation(len(SLOTS))[: len(PLACES)]
    places = {int(slot): place for slot, place in zip(marked, PLACES, strict=True)}
    table = _Table(items, list(slots), lid_open=list(lids))
    steps: list[Step] = []
    start_s = float(rng.uniform(0.1, 0.5))
    while (end_s := start_s + float(rng.uniform(SHORTEST_EVENT_S, LONGEST_EVENT_S))) <= duration_s:
        action = _choose(rng, table, [step.action for step in steps], forbidden)
        table.apply(action)
        steps.append(Step(action, start_s, end_s))
        start_s = end_s
    return Plan(items, slots, lids, places, tuple(steps))


def _choose_items(rng: np.random.Generator) -> tuple[Item, ...]:
    """Returns three or four objects of different shapes, among them some for every verb; colours may repeat."""
    while True:
        shapes = [str(shape) for shape in rng.permutation(SHAPES)[: rng.integers(3, 5)]]
        if all(set(shapes).intersection(SHAPES_OF_VERB[verb]) for verb in VERBS):
            return tuple(Item(COLOURS[rng.integers(len(COLOURS))], shape) for shape in shapes)


def _choose(
    rng: np.random.Generator,
    table: _Table,
    done: Sequence[Action],
    forbidden: AbstractSet[Combination],
) -> Action:
    """Picks a verb, then one of its legal actions; what was rare so far is likelier, nothing is done twice in a row."""
    legal = [
        action
        for action in table.legal_actions()
        if (action.verb, table.items[action.item].colour, table.items[action.item].shape) not in forbidden
        and (not done or (action.verb, action.item) != (done[-1].verb, done[-1].item))
    ]
    verbs = sorted({action.verb for action in legal})
    verb = verbs[_rarest(rng, [action.verb for action in done], verbs)]
    actions = [action for action in legal if action.verb == verb]
    return actions[_rarest(rng, [action.item for action in done], [action.item for action in actions])]


def _rarest(rng: np.random.Generator, seen: Sequence[object], choices: Sequence[object]) -> int:
    """Draws an index into `choices`, the likelier the less often the choice is among `seen`."""
    weights = np.array([1.0 / (1 + seen.count(choice)) ** 3 for choice in choices])
    return int(rng.choice(len(choices), p=weights / weights.sum()))
