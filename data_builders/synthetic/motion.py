"""The plan of a take as movement: where hands, objects and the wearer's gaze are in every frame.

World frame in metres: x to the wearer's right, y away from the wearer, z up from the table's top.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_builders.synthetic.config import FRAMES_PER_SECOND
from data_builders.synthetic.vocabulary import HANDS
from data_builders.synthetic.world import NUM_COLUMNS, Action, Plan, Step

Array = NDArray[np.float64]

COLUMN_SPACING_M = 0.27
NEAR_ROW_M, FAR_ROW_M = -0.06, 0.20
RADIUS_M = {"cup": 0.086, "box": 0.095, "ball": 0.1, "bottle": 0.075, "plate": 0.13}
HEIGHT_M = {"cup": 0.15, "box": 0.13, "ball": 0.2, "bottle": 0.27, "plate": 0.035}
LID_OPEN_RAD = np.deg2rad(110)
POUR_TILT_RAD = np.deg2rad(115)
ROTATION_RAD = np.deg2rad(150)
SHAKE_M = 0.09
SIDE = {"left": -1.0, "right": 1.0}

UP = np.array([0.0, 0.0, 1.0])
LIFT = np.array([0.0, 0.0, 0.06])
"""Moving hands pass this much above the straight line."""

# Phases of an event as fractions of its span: the hand arrives, acts around the middle, and leaves.
ARRIVES, ACTS_FROM, ACTS_TO, LEAVES = 0.24, 0.28, 0.74, 0.78

Key = tuple[float, Array]
"""(fraction of the event, value reached by then)"""


@dataclass(frozen=True)
class Segment:
    """Frames [first, last) in which only one hand and one item move (both None: nothing moves)."""

    first: int
    last: int
    hand: int | None = None
    item: int | None = None


@dataclass
class Motion:
    """T frames of O items and two hands (left, right)."""

    hands: Array
    """[2, T, 3] palm centres."""
    positions: Array
    """[O, T, 3] centres of the items' bases."""
    tilts: Array
    """[O, T] radians towards +x."""
    yaws: Array
    """[O, T] radians about the vertical."""
    lids: Array
    """[O, T] radians, 0 closed."""
    attention: Array
    """[T, 3] where the action is; the wearer looks about there."""
    segments: list[Segment]
    """In time order, without gaps."""

    def spans(self, *, hand: int | None = None, item: int | None = None) -> Iterator[tuple[int, int, bool]]:
        """Yields (first frame, last frame + 1, moves) of a hand or an item over the whole take."""
        resting_since = 0
        for segment in self.segments:
            if (segment.hand if item is None else segment.item) == (hand if item is None else item):
                if segment.first > resting_since:
                    yield resting_since, segment.first, False
                yield segment.first, segment.last, True
                resting_since = segment.last
        if self.segments[-1].last > resting_since:
            yield resting_since, self.segments[-1].last, False


def slot_position(slot: int) -> Array:
    """Returns the centre of a slot on the table."""
    row, column = divmod(slot, NUM_COLUMNS)
    return np.array([(column - 1) * COLUMN_SPACING_M, FAR_ROW_M if row else NEAR_ROW_M, 0.0])


def rest_position(hand: str) -> Array:
    """Returns where an empty hand lies between events."""
    return np.array([SIDE[hand] * 0.25, -0.28, 0.03])


def hold_position(hand: str) -> Array:
    """Returns where a hand keeps an object between events."""
    return np.array([SIDE[hand] * 0.33, -0.05, 0.10])


def grasp_offset(shape: str, hand: str) -> Array:
    """Returns the palm's place relative to the centre of the base of the object that it grasps."""
    radius, height = RADIUS_M[shape], HEIGHT_M[shape]
    return np.array([SIDE[hand] * 0.75 * radius, -0.75 * radius - 0.02, 0.5 * height])


def lid_edge(shape: str, yaw: float, angle: float) -> Array:
    """Returns the free edge of a lid that is `angle` open, relative to the centre of the object's base."""
    outward = np.array([np.cos(yaw), np.sin(yaw), 0.0])
    hinge, length = (RADIUS_M[shape], 2 * RADIUS_M[shape]) if shape == "box" else (0.045, 0.09)
    return hinge * outward + length * (np.sin(angle) * UP - np.cos(angle) * outward) + HEIGHT_M[shape] * UP


def interpolate(times: Array, keys: Sequence[Key]) -> Array:
    """Moves smoothly from key to key: `times` [T] -> [T, ...]; before the first and after the last key it stands."""
    knots = np.array([time for time, _ in keys])
    values = np.stack([value for _, value in keys])
    left = np.clip(np.searchsorted(knots, times, side="right") - 1, 0, len(keys) - 2)
    ratio = np.clip((times - knots[left]) / np.maximum(knots[left + 1] - knots[left], 1e-9), 0.0, 1.0)
    weight = (ratio * ratio * (3 - 2 * ratio)).reshape(-1, *[1] * (values.ndim - 1))
    return values[left] + weight * (values[left + 1] - values[left])


@dataclass(frozen=True)
class _Track:
    """How one event moves its hand and item; None: the property keeps its value."""

    hand: list[Key]
    position: list[Key] | None = None
    tilt: list[Key] | None = None
    yaw: list[Key] | None = None
    lid: list[Key] | None = None


def animate(plan: Plan, num_frames: int, rng: np.random.Generator) -> Motion:
    """Turns a plan into per-frame movement; `rng` decides only the first orientation of the objects."""
    num_items = len(plan.items)
    motion = Motion(
        hands=np.repeat(np.stack([rest_position(hand) for hand in HANDS])[:, None], num_frames, axis=1),
        positions=np.repeat(np.stack([slot_position(slot) for slot in plan.first_slots])[:, None], num_frames, axis=1),
        tilts=np.zeros((num_items, num_frames)),
        yaws=np.repeat(rng.uniform(0.3, 2.8, (num_items, 1)), num_frames, axis=1),
        lids=np.repeat(np.array(plan.first_lids, dtype=float)[:, None] * LID_OPEN_RAD, num_frames, axis=1),
        attention=np.zeros((num_frames, 3)),
        segments=[],
    )
    frame_times = np.arange(num_frames) / FRAMES_PER_SECOND
    attention: list[Key] = [(0.0, np.array([0.0, 0.08, 0.05]))]
    end = 0
    for step in plan.steps:
        first, last = (int(np.ceil(time * FRAMES_PER_SECOND)) for time in (step.start_s, step.end_s))
        if first > end:
            motion.segments.append(Segment(end, first))
        fractions = (frame_times[first:last] - step.start_s) / (step.end_s - step.start_s)
        hand = HANDS.index(step.action.hand)
        _write(motion, step.action, _track(plan, motion, step.action, first), fractions, first)
        motion.segments.append(Segment(first, last, hand, step.action.item))
        attention += _attend(motion, step, first, last)
        end = last
    if end < num_frames:
        motion.segments.append(Segment(end, num_frames))
    motion.attention = interpolate(frame_times, attention)
    return motion


def _write(motion: Motion, action: Action, track: _Track, fractions: Array, first: int) -> None:
    """Writes an event into the arrays, and its final state into every later frame."""
    item = action.item
    targets = (
        (motion.hands[HANDS.index(action.hand)], track.hand),
        (motion.positions[item], track.position),
        (motion.tilts[item], track.tilt),
        (motion.yaws[item], track.yaw),
        (motion.lids[item], track.lid),
    )
    last = first + len(fractions)
    for values, keys in targets:
        if keys is not None:
            values[first:last] = interpolate(fractions, keys)
            values[last:] = keys[-1][1]


def _attend(motion: Motion, step: Step, first: int, last: int) -> list[Key]:
    """The wearer looks between the centre of the table and the middle of the action."""
    middle = motion.positions[step.action.item, (first + last) // 2]
    return [
        (step.start_s + 0.25 * (step.end_s - step.start_s), middle),
        (step.start_s + 0.85 * (step.end_s - step.start_s), middle),
    ]


def _track(plan: Plan, motion: Motion, action: Action, frame: int) -> _Track:
    shape = plan.items[action.item].shape
    home = motion.hands[HANDS.index(action.hand), frame]
    position = motion.positions[action.item, frame]
    yaw = float(motion.yaws[action.item, frame])
    if action.verb in ("push", "pull"):
        assert action.target_slot is not None
        return _slide(shape, home, position, slot_position(action.target_slot), away=action.verb == "push")
    if action.verb in ("open", "close"):
        return _move_lid(shape, home, position, yaw, opens=action.verb == "open")
    if action.verb == "rotate":
        return _rotate(shape, home, position, yaw)
    if action.verb == "shake":
        return _shake(shape, action.hand, home)
    if action.verb == "pour":
        return _pour(shape, action.hand, home)
    if action.verb == "pick up":
        held = hold_position(action.hand)
        offset = grasp_offset(shape, action.hand)
        carry: list[Key] = [(0.0, position), (ACTS_FROM, position), (ACTS_TO, held)]
        hand: list[Key] = [(0.0, home), (ARRIVES, position + offset), (ACTS_FROM, position + offset)]
        return _Track([*hand, (ACTS_TO, held + offset)], carry)
    assert action.target_slot is not None
    return _put_down(shape, action.hand, home, position, slot_position(action.target_slot))


def _put_down(shape: str, hand: str, home: Array, position: Array, target: Array) -> _Track:
    offset = grasp_offset(shape, hand)
    carry: list[Key] = [(0.0, position), (0.12, position), (0.45, target + 2 * LIFT), (0.66, target)]
    path: list[Key] = [(time, value + offset) for time, value in carry]
    return _Track([*path, (ACTS_TO, target + offset), (1.0, rest_position(hand))], carry)


def _slide(shape: str, home: Array, position: Array, target: Array, *, away: bool) -> _Track:
    radius, height = RADIUS_M[shape], HEIGHT_M[shape]
    behind = np.array([0.0, -radius - 0.03, 0.35 * height])
    beyond = np.array([0.0, 0.8 * radius, height + 0.01])
    offset = behind if away else beyond
    carry: list[Key] = [(0.0, position), (ACTS_FROM, position), (ACTS_TO, target)]
    hand: list[Key] = [(0.0, home), (ARRIVES, position + offset), (ACTS_FROM, position + offset)]
    return _Track([*hand, (ACTS_TO, target + offset), (LEAVES, target + offset), (1.0, home)], carry)


def _rotate(shape: str, home: Array, position: Array, yaw: float) -> _Track:
    """The hand goes round the object, which turns with it."""
    radius, height = RADIUS_M[shape] + 0.03, HEIGHT_M[shape]
    times = np.linspace(ACTS_FROM, ACTS_TO, 6)
    turned = np.linspace(0.0, ROTATION_RAD, 6)
    angles = turned - 0.5 * ROTATION_RAD - 0.5 * np.pi
    around = position + np.stack([radius * np.cos(angles), radius * np.sin(angles), np.full(6, 0.7 * height)], axis=1)
    path: list[Key] = list(zip(times.tolist(), around, strict=True))
    yaws: list[Key] = [(time, np.array(yaw + angle)) for time, angle in zip(times.tolist(), turned, strict=True)]
    return _Track([(0.0, home), (ARRIVES, around[0]), *path, (LEAVES, around[-1]), (1.0, home)], yaw=yaws)


def _shake(shape: str, hand: str, home: Array) -> _Track:
    base = home - grasp_offset(shape, hand)
    swings = [0.0, 1.0, -0.6, 1.0, -0.6, 1.0, 0.0]
    times = np.linspace(0.14, 0.86, len(swings)).tolist()
    up_and_down = [base + swing * SHAKE_M * UP for swing in swings]
    carry: list[Key] = [(0.0, base), *zip(times, up_and_down, strict=True)]
    return _Track([(time, value + grasp_offset(shape, hand)) for time, value in carry], carry)


def _pour(shape: str, hand: str, home: Array) -> _Track:
    """The held object is raised over the table, tilts towards the other hand, and comes back."""
    offset = grasp_offset(shape, hand)
    base = home - offset
    raised = np.array([SIDE[hand] * 0.24, 0.0, 0.24])
    carry: list[Key] = [(0.0, base), (0.26, raised), (0.76, raised), (1.0, base)]
    upright, tilted = np.array(0.0), np.array(-SIDE[hand] * POUR_TILT_RAD)
    tilt: list[Key] = [(0.0, upright), (0.18, upright), (0.40, tilted), (0.70, tilted), (0.90, upright)]
    return _Track([(time, value + offset) for time, value in carry], carry, tilt)


def _move_lid(shape: str, home: Array, position: Array, yaw: float, *, opens: bool) -> _Track:
    angles = np.linspace(0.0, LID_OPEN_RAD, 5)
    angles = angles if opens else angles[::-1]
    times = np.linspace(ACTS_FROM, ACTS_TO, 5).tolist()
    path: list[Key] = [
        (time, position + lid_edge(shape, yaw, angle)) for time, angle in zip(times, angles, strict=True)
    ]
    lid: list[Key] = [(time, np.array(angle)) for time, angle in zip(times, angles, strict=True)]
    return _Track([(0.0, home), (ARRIVES, path[0][1]), *path, (LEAVES, path[-1][1]), (1.0, home)], lid=lid)
