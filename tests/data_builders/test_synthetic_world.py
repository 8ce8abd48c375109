"""The generated world: plans are legal, movement carries them out, and every sentence is true."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_builders.synthetic.motion import Motion, animate, hold_position, rest_position, slot_position
from data_builders.synthetic.narration import STYLES, narrate, sentence
from data_builders.synthetic.vocabulary import HANDS, SHAPES_OF_VERB, VERBS, combinations
from data_builders.synthetic.world import NUM_COLUMNS, SLOTS, Plan, Step, make_plan

DURATION_S = 30.0
seeds = st.integers(0, 10**6)


def plan_of(seed: int) -> Plan:
    return make_plan(np.random.default_rng(seed), DURATION_S, frozenset())


def animated(seed: int) -> tuple[Plan, Motion]:
    plan = plan_of(seed)
    return plan, animate(plan, round(30 * DURATION_S), np.random.default_rng(seed))


def frame_of(step: Step, fraction: float) -> int:
    return round(30 * (step.start_s + fraction * (step.end_s - step.start_s)))


class Referee:
    """Follows a plan by rules written down a second time."""

    def __init__(self, plan: Plan) -> None:
        self.slots: list[int | None] = list(plan.first_slots)
        self.lids = list(plan.first_lids)
        self.shapes = [item.shape for item in plan.items]

    def play(self, step: Step, held: dict[str, int]) -> None:
        action, item = step.action, step.action.item
        assert self.shapes[item] in SHAPES_OF_VERB[action.verb]
        assert self.slots[item] == action.source_slot
        if action.verb in ("shake", "pour", "put down"):
            assert held.get(action.hand) == item
        else:
            assert action.hand not in held
        if action.verb == "pour":
            assert self.shapes[item] == "cup" or self.lids[item]
        if action.verb in ("open", "close"):
            assert self.lids[item] == (action.verb == "close")
            self.lids[item] = not self.lids[item]
        if action.verb in ("push", "pull"):
            assert action.source_slot is not None
            assert action.target_slot == action.source_slot + NUM_COLUMNS * (1 if action.verb == "push" else -1)
        if action.target_slot is not None and action.target_slot != action.source_slot:
            assert action.target_slot in SLOTS
            assert action.target_slot not in self.slots
        self.slots[item] = action.target_slot
        if action.verb == "pick up":
            held[action.hand] = item
        elif action.verb == "put down":
            del held[action.hand]


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_every_action_of_a_plan_is_possible(seed: int) -> None:
    plan = plan_of(seed)
    referee, held = Referee(plan), dict[str, int]()
    for step in plan.steps:
        referee.play(step, held)
    assert len(set(plan.first_slots)) == len(plan.items)
    assert 3 <= len(plan.items) <= 4


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_events_follow_each_other_without_overlap(seed: int) -> None:
    steps = plan_of(seed).steps
    assert all(0.8 <= step.end_s - step.start_s <= 1.5 for step in steps)
    assert all(after.start_s == before.end_s for before, after in pairwise(steps))
    assert steps[-1].end_s <= DURATION_S
    assert DURATION_S - steps[-1].end_s < 1.5


def test_verbs_hands_shapes_and_colours_are_used_evenly() -> None:
    events = [plan.event(step) for plan in map(plan_of, range(60)) for step in plan.steps]
    for attribute, least in (("verb", 0.03), ("hand", 0.4), ("shape", 0.12), ("colour", 0.1)):
        shares = Counter(getattr(event, attribute) for event in events)
        assert min(shares.values()) > least * len(events), shares
    assert {event.verb for event in events} == set(VERBS)


def test_held_out_combinations_do_not_occur() -> None:
    forbidden = frozenset(combinations()[::3])
    rng = np.random.default_rng(0)
    done = {
        plan.event(step).combination
        for plan in (make_plan(rng, 30, forbidden) for _ in range(40))
        for step in plan.steps
    }
    assert not done & forbidden
    assert {plan.event(step).combination for plan in map(plan_of, range(40)) for step in plan.steps} & forbidden


@given(seeds)
@settings(max_examples=15, deadline=None)
def test_segments_cover_every_frame_once(seed: int) -> None:
    _, motion = animated(seed)
    frames = [frame for segment in motion.segments for frame in range(segment.first, segment.last)]
    assert frames == list(range(round(30 * DURATION_S)))


@given(seeds)
@settings(max_examples=15, deadline=None)
def test_only_the_acting_hand_and_item_move_in_a_segment(seed: int) -> None:
    plan, motion = animated(seed)
    for segment in motion.segments:
        span = slice(segment.first, segment.last)
        for item in range(len(plan.items)):
            if item != segment.item:
                assert np.ptp(motion.positions[item, span], axis=0).max() == 0
                assert max(np.ptp(values[item, span]) for values in (motion.tilts, motion.yaws, motion.lids)) == 0
        for hand in range(2):
            assert (np.ptp(motion.hands[hand, span], axis=0).max() > 0.05) == (hand == segment.hand)


@given(seeds)
@settings(max_examples=15, deadline=None)
def test_movement_ends_where_the_plan_says(seed: int) -> None:
    plan, motion = animated(seed)
    for step in plan.steps:
        last = min(frame_of(step, 1.0) + 1, motion.positions.shape[1] - 1)
        target, hand = step.action.target_slot, step.action.hand
        expected = hold_position(hand) if target is None else slot_position(target)
        np.testing.assert_allclose(motion.positions[step.action.item, last], expected, atol=0.01)


@given(seeds)
@settings(max_examples=15, deadline=None)
def test_the_hand_is_at_the_object_while_it_acts(seed: int) -> None:
    plan, motion = animated(seed)
    for step in plan.steps:
        frame = frame_of(step, 0.5)
        distance = motion.hands[HANDS.index(step.action.hand), frame] - motion.positions[step.action.item, frame]
        assert np.linalg.norm(distance) < 0.45, step.action.verb


def test_verbs_move_as_they_say() -> None:
    for seed in range(12):
        plan, motion = animated(seed)
        for step in plan.steps:
            before, middle, after = (frame_of(step, fraction) for fraction in (0.05, 0.5, 0.98))
            position = motion.positions[step.action.item]
            rise, away = (position[after] - position[before])[[2, 1]]
            match step.action.verb:
                case "pick up":
                    assert rise > 0.08
                case "put down":
                    assert rise < -0.08
                case "push":
                    assert away > 0.2
                case "pull":
                    assert away < -0.2
                case "shake":
                    assert np.ptp(position[before:after, 2]) > 0.1
                case "pour":
                    assert abs(motion.tilts[step.action.item, middle]) > np.pi / 2
                case "rotate":
                    assert motion.yaws[step.action.item, after] - motion.yaws[step.action.item, before] > 2
                case "open" | "close":
                    lids = motion.lids[step.action.item]
                    assert (lids[after] - lids[before] > 1) == (step.action.verb == "open")


def test_hands_rest_when_nothing_happens() -> None:
    _, motion = animated(3)
    np.testing.assert_allclose(motion.hands[:, 0], [rest_position(hand) for hand in HANDS])


@pytest.mark.parametrize("style", [0, 1])
def test_sentences_are_true_and_complete(style: int) -> None:
    for event in (plan.event(step) for plan in map(plan_of, range(20)) for step in plan.steps):
        text = sentence(event, style, "her", with_place=True)
        words = text.rstrip(".").split()
        assert text.startswith("C ")
        assert text.endswith(f"{event.hand} hand.")
        assert {event.colour, event.shape} <= set(words)
        assert ("left" in words) == (event.hand == "left")
        assert event.place in words
        assert event.place not in sentence(event, style, "her", with_place=False).split()


def test_the_two_styles_share_no_predicate() -> None:
    predicates = [{template.split()[0] for template in templates} for style in STYLES for templates in style.values()]
    assert sum(len(words) for words in predicates) == len(set().union(*predicates)) == 2 * len(VERBS)


@given(seeds, st.sampled_from([1, 2]))
@settings(max_examples=20, deadline=None)
def test_clips_by_equation_1_show_the_event(seed: int, num_annotators: int) -> None:
    """Exo2Ego Eq. 1 on the merged sequence, with an alpha between that of one and that of two annotators."""
    plan = plan_of(seed)
    events = [plan.event(step) for step in plan.steps]
    by_annotator = narrate(events, num_annotators, "his", np.random.default_rng(seed))
    narrations = sorted((one for own in by_annotator for one in own), key=lambda one: one.timestamp_s)
    times = [one.timestamp_s for one in narrations]
    half_width = (times[-1] - times[0]) / (len(times) - 1) / (2 * 0.98)
    for index, narration in enumerate(narrations):
        start = max(times[index] - half_width, times[index - 1] if index else 0.0)
        end = min(times[index] + half_width, times[index + 1] if index + 1 < len(times) else DURATION_S)
        assert end - start >= 0.3
        event = narration.event
        shown = min(end, event.end_s) - max(start, event.start_s)
        assert shown > 0.25
        assert start <= event.timestamp_s + 0.05
        assert end >= event.timestamp_s - 0.05
    assert len(narrations) == num_annotators * len(events)
