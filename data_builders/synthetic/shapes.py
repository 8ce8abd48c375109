"""What hands, objects, the table and the wearer look like: lists of coloured parts in world coordinates (metres).

Every array has a time axis of T frames; T = 1 stands still.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_builders.synthetic.motion import HEIGHT_M, RADIUS_M, SIDE, UP, Array, slot_position
from data_builders.synthetic.vocabulary import Hand

TABLE_MIDDLE_M = np.array([0.0, 0.04, 0.0])
TABLE_HALF_M = np.array([0.50, 0.32, 0.0])
PLACE_RADIUS_M = 0.132
POURS_FROM_RAD = np.deg2rad(70)
NECK_RADIUS_M = 0.034
_CIRCLE = np.array([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)])[..., None, None]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A convex coloured shape, drawn only where `outward` faces the camera and `shown` is true (if they are given)."""

    colour: str
    points: Array
    """[K, T, 3] corners of a face, or the two centres of a round body."""
    outward: Array | None = None
    """[T, 3]"""
    shown: NDArray[np.bool_] | None = None
    """[T]"""


@dataclass(frozen=True, kw_only=True)
class Face(Part):
    """A flat convex polygon."""


@dataclass(frozen=True, kw_only=True)
class Round(Part):
    """A cylinder or cone between two circles; a ball if they coincide."""

    radii: tuple[float, float]


@dataclass(frozen=True)
class Pose:
    """Where an object is: the centre of its base, its tilt towards +x, its yaw, and how far its lid is open."""

    position: Array
    """[T, 3]"""
    tilt: Array
    """[T] radians"""
    yaw: Array
    """[T] radians"""
    lid: Array
    """[T] radians, 0 closed"""

    @property
    def axis(self) -> Array:
        """[T, 3] from the base to the top."""
        return np.stack([np.sin(self.tilt), np.zeros_like(self.tilt), np.cos(self.tilt)], axis=-1)

    def along(self, height: float) -> Array:
        """Returns the point [T, 3] that is `height` metres up the axis."""
        return self.position + height * self.axis


def _direction(yaw: Array, elevation_rad: float = 0.0) -> Array:
    level = np.cos(elevation_rad)
    return np.stack([level * np.cos(yaw), level * np.sin(yaw), np.full_like(yaw, np.sin(elevation_rad))], axis=-1)


def _rod(colour: str, start: Array, end: Array, radii: tuple[float, float], outward: Array | None = None) -> Round:
    return Round(colour=colour, points=np.stack([start, end]), radii=radii, outward=outward)


def _ball(colour: str, centre: Array, radius: float, outward: Array | None = None) -> Round:
    return _rod(colour, centre, centre, (radius, radius), outward)


def _disc(colour: str, centre: Array, normal: Array, radius: float, *, one_sided: bool = True) -> Face:
    """A circle, as an octagon; `normal` must not be level along y."""
    x, y, z = normal.T
    across = np.stack([-z, np.zeros_like(x), x], axis=-1) / np.hypot(x, z)[:, None]
    other = np.stack([y * across[:, 2], z * across[:, 0] - x * across[:, 2], -y * across[:, 0]], axis=-1)
    corners = centre + radius * (_CIRCLE[0] * across + _CIRCLE[1] * other)
    return Face(colour=colour, points=corners, outward=normal if one_sided else None)


def _rectangle(colour: str, middle: Array, half_width: Array, half_depth: Array, outward: Array | None = None) -> Face:
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    corners = np.stack([middle + a * half_width + b * half_depth for a, b in signs])
    return Face(colour=colour, points=corners, outward=outward)


def object_parts(shape: str, colour: str, pose: Pose) -> list[Part]:
    """Returns the parts of an object, in drawing order."""
    return _BUILDERS[shape](colour, pose)


def _cup(colour: str, pose: Pose) -> list[Part]:
    radius, height = RADIUS_M["cup"], HEIGHT_M["cup"]
    outward = _direction(pose.yaw)
    handle_at = pose.along(0.5 * height) + (radius + 0.015) * outward
    top = pose.along(height)
    return [
        _ball(f"dark {colour}", handle_at, 0.036, -outward),
        _rod(colour, pose.position, top, (0.75 * radius, radius)),
        _disc(f"light {colour}", top, pose.axis, radius),
        _disc("inside", top, pose.axis, 0.78 * radius),
        _ball(f"dark {colour}", handle_at, 0.036, outward),
    ]


def _box(colour: str, pose: Pose) -> list[Part]:
    half, height = RADIUS_M["box"], HEIGHT_M["box"]
    upright = np.broadcast_to(UP, pose.position.shape)
    parts: list[Part] = []
    for quarter, shade in enumerate(("", "dark ", "", "dark ")):
        outward = _direction(pose.yaw + quarter * np.pi / 2)
        along = _direction(pose.yaw + (quarter + 1) * np.pi / 2)
        middle = pose.position + half * outward + 0.5 * height * UP
        parts.append(_rectangle(f"{shade}{colour}", middle, half * along, 0.5 * height * upright, outward))
    outward, along = _direction(pose.yaw), _direction(pose.yaw + np.pi / 2)
    top = pose.position + height * UP
    parts.append(_rectangle("inside", top, half * along, half * outward))
    cosine, sine = np.cos(pose.lid)[:, None], np.sin(pose.lid)[:, None]
    inward = sine * UP - cosine * outward
    middle = top + half * outward + half * inward
    normal = cosine * UP + sine * outward
    parts.append(_rectangle(f"light {colour}", middle, half * along, half * inward))
    parts.append(
        _rectangle(f"dark {colour}", middle + 0.3 * half * inward, 0.5 * half * along, 0.2 * half * inward, normal)
    )
    return parts


def _ball_object(colour: str, pose: Pose) -> list[Part]:
    radius = RADIUS_M["ball"]
    centre = pose.position + radius * UP
    parts: list[Part] = [_ball(colour, centre, radius)]
    for turn in (0.0, 2.1, 4.2):
        towards = _direction(pose.yaw + turn, 0.6)
        parts.append(_disc("mark", centre + 0.92 * radius * towards, towards, 0.3 * radius))
    return parts


def _bottle(colour: str, pose: Pose) -> list[Part]:
    radius, height = RADIUS_M["bottle"], HEIGHT_M["bottle"]
    outward = _direction(pose.yaw)
    shoulder, neck, top = pose.along(0.56 * height), pose.along(0.72 * height), pose.along(height - 0.03)
    label_side = _direction(pose.yaw + np.pi / 2)
    label = pose.along(0.28 * height) + 0.9 * radius * outward
    cosine, sine = np.cos(pose.lid)[:, None], np.sin(pose.lid)[:, None]
    cap_axis = cosine * pose.axis + sine * outward
    hinge = top + NECK_RADIUS_M * outward
    cap = hinge + NECK_RADIUS_M * (sine * pose.axis - cosine * outward)
    return [
        _rod(colour, pose.position, shoulder, (radius, radius)),
        _rectangle("mark", label, 0.45 * radius * label_side, 0.16 * height * pose.axis, outward),
        _rod(f"light {colour}", shoulder, neck, (radius, NECK_RADIUS_M)),
        _rod(colour, neck, top, (NECK_RADIUS_M, NECK_RADIUS_M)),
        _disc("water", top, pose.axis, 0.9 * NECK_RADIUS_M),
        _rod("mark", cap, cap + 0.045 * cap_axis, (0.045, 0.045)),
    ]


def _plate(colour: str, pose: Pose) -> list[Part]:
    radius, height = RADIUS_M["plate"], HEIGHT_M["plate"]
    top = pose.along(height)
    return [
        _rod(f"dark {colour}", pose.position, top, (0.6 * radius, radius)),
        _disc(f"light {colour}", top, pose.axis, radius, one_sided=False),
        _disc(colour, top, pose.axis, 0.68 * radius),
        _disc("mark", top + 0.68 * radius * _direction(pose.yaw), pose.axis, 0.2 * radius),
    ]


_BUILDERS = {"cup": _cup, "box": _box, "ball": _ball_object, "bottle": _bottle, "plate": _plate}


def water_parts(shape: str, pose: Pose) -> list[Part]:
    """Returns the stream that falls from a tilted cup or bottle."""
    mouth = pose.along(HEIGHT_M[shape])
    ground = mouth * np.array([1.0, 1.0, 0.0])
    shown = np.abs(pose.tilt) > POURS_FROM_RAD
    puddle = _disc("water", ground, np.broadcast_to(UP, ground.shape), 0.05)
    return [
        Face(colour="water", points=puddle.points, shown=shown),
        Round(colour="water", points=np.stack([mouth, ground]), radii=(0.022, 0.014), shown=shown),
    ]


def hand_parts(hand: Hand, palm: Array) -> list[Part]:
    """Returns an arm and its hand at `palm` [T, 3]."""
    side = SIDE[hand]
    shoulder = np.broadcast_to(np.array([side * 0.20, -0.46, 0.40]), palm.shape)
    elbow = 0.5 * (shoulder + palm) + np.array([side * 0.09, -0.03, -0.08])
    forward = palm - elbow
    forward /= np.sqrt((forward**2).sum(-1, keepdims=True))
    wrist, knuckles, tips = palm - 0.05 * forward, palm + 0.035 * forward, palm + 0.085 * forward
    thumb = palm + 0.03 * forward + np.array([-side * 0.062, 0.0, 0.0])
    return [
        _rod(f"dark {hand} sleeve", shoulder, elbow, (0.06, 0.05)),
        _rod(f"{hand} sleeve", elbow, wrist, (0.052, 0.044)),
        _rod(f"light {hand} sleeve", wrist - 0.02 * forward, wrist, (0.05, 0.05)),
        _rod("skin", palm, thumb, (0.026, 0.018)),
        _rod("light skin", wrist, knuckles, (0.034, 0.046)),
        _rod("skin", knuckles, tips, (0.044, 0.030)),
    ]


def wearer_parts() -> list[Part]:
    """Returns the seated wearer's trunk and head, as the exocentric cameras see them."""
    hip, neck, head = (np.array([[0.0, -0.55, z]]) for z in (-0.35, 0.42, 0.58))
    return [
        _rod("shirt", hip, neck, (0.20, 0.20)),
        _ball("skin", head, 0.10),
        _ball("hair", head + np.array([0.0, -0.02, 0.045]), 0.095),
    ]


def table_parts(place_of_slot: dict[int, str]) -> list[Part]:
    """Returns the table and its marked places."""
    width, depth, _ = np.diag(TABLE_HALF_M)
    parts: list[Part] = [
        _rectangle("table edge", TABLE_MIDDLE_M[None] - 0.05 * UP, width, depth),
        _rectangle("table", TABLE_MIDDLE_M[None], width, depth),
    ]
    for slot, place in place_of_slot.items():
        parts += _place_parts(place, slot_position(slot)[None])
    return parts


def _place_parts(place: str, centre: Array) -> list[Part]:
    width, depth, _ = PLACE_RADIUS_M * np.eye(3)
    depth = 0.9 * depth
    upright = UP[None]
    if place == "tray":
        return [
            _rectangle("tray rim", centre, width, depth),
            _rectangle("tray", centre, 0.84 * width, 0.84 * depth),
        ]
    if place == "mat":
        stripes = [_rectangle("mat stripe", centre + x * width, 0.14 * width, depth) for x in (-0.72, 0.0, 0.72)]
        return [_rectangle("mat", centre, width, depth), *stripes]
    return [
        _disc("board rim", centre, upright, 0.95 * PLACE_RADIUS_M),
        _disc("board", centre, upright, 0.78 * PLACE_RADIUS_M),
    ]
