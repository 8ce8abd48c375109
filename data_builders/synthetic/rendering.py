"""Drawing a take: parts are projected for all frames of a segment at once, then drawn frame by frame as polygons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from data_builders.synthetic.cameras import Camera
from data_builders.synthetic.motion import Array, Motion, Segment
from data_builders.synthetic.palette import Bytes, Palette
from data_builders.synthetic.shapes import (
    Face,
    Part,
    Pose,
    Round,
    hand_parts,
    object_parts,
    table_parts,
    water_parts,
    wearer_parts,
)
from data_builders.synthetic.vocabulary import HANDS
from data_builders.synthetic.world import Plan

Planes = tuple[Bytes, Bytes, Bytes]
"""Y [H, W], U and V [H/2, W/2] of one frame."""
Polygon = list[int]
"""x, y, x, y, ... in pixels."""

# The outline of a round part: half of an octagon round its first end, and the other half round its second.
_ANGLES = np.deg2rad([-67.5, -22.5, 22.5, 67.5, 67.5, 22.5, -22.5, -67.5])
_ACROSS = np.sin(_ANGLES)[:, None]
_ALONG = (np.cos(_ANGLES) * np.repeat([-1.0, 1.0], 4))[:, None]
_END = np.repeat([0, 1], 4)
_FARTHEST_PX = 8192.0


@dataclass(frozen=True)
class Figure:
    """A hand or an object: its parts in drawing order, and the point by which figures are ordered in depth."""

    parts: list[Part]
    reference: Array
    """[3] metres"""


@dataclass(frozen=True)
class Scene:
    """Everything that can be seen in one segment of a take, the same for all cameras."""

    segment: Segment
    still: list[Figure]
    moving: list[Figure]


@dataclass(frozen=True)
class Stroke:
    """A part as one camera sees it in the frames of a segment."""

    colour: str
    polygons: Sequence[Polygon | None]
    """Per frame, or one for all; None: hidden or outside the frame."""


def make_scenes(plan: Plan, motion: Motion) -> list[Scene]:
    """Gives every segment of a take its figures; what stands still is built once and kept until it moves."""
    things = [("item", item) for item in range(len(plan.items))] + [("hand", hand) for hand in range(len(HANDS))]
    still: dict[tuple[str, int], Figure] = {}
    scenes = []
    for segment in motion.segments:
        acting = {("item", segment.item), ("hand", segment.hand)}
        for thing in things:
            if thing in acting:
                still.pop(thing, None)
            elif thing not in still:
                still[thing] = _figure(plan, motion, thing, slice(segment.first, segment.first + 1))
        span = slice(segment.first, segment.last)
        moving = [_figure(plan, motion, thing, span, segment.pours) for thing in things if thing in acting]
        scenes.append(Scene(segment, list(still.values()), moving))
    return scenes


def _figure(plan: Plan, motion: Motion, thing: tuple[str, int], frames: slice, pours: bool = False) -> Figure:
    kind, index = thing
    if kind == "hand":
        palm = motion.hands[index, frames]
        return Figure(hand_parts(HANDS[index], palm), palm.mean(0))
    pose = Pose(*(values[index, frames] for values in (motion.positions, motion.tilts, motion.yaws, motion.lids)))
    item = plan.items[index]
    water = water_parts(item.shape, pose) if pours else []
    return Figure([*water, *object_parts(item.shape, item.colour, pose)], pose.position.mean(0))


def render(
    plan: Plan, scenes: Sequence[Scene], camera: Camera, palette: Palette, *, supersampling: int = 1
) -> Iterator[Planes]:
    """Yields every frame of a take as `camera` sees it; a fixed camera draws again only what moves."""
    camera = camera.enlarged(supersampling)
    floor = Image.new("L", (camera.width, camera.height), palette.luma["floor"])
    scenery = [*([] if camera.is_ego else wearer_parts()), *table_parts(plan.place_of_slot)]
    for scene in scenes:
        first, last = scene.segment.first, scene.segment.last
        view = camera.during(first, last)
        still = strokes_of([*scenery, *_far_to_near(scene.still, view)], view)
        moving = strokes_of(_far_to_near(scene.moving, view), view)
        if not camera.is_fixed:
            yield from _draw(floor, [*still, *moving], palette, last - first, supersampling)
            continue
        background = _draw_once(floor, still, palette)
        if moving:
            yield from _draw(background, moving, palette, last - first, supersampling)
        else:
            yield from [_to_planes(background, palette, supersampling)] * (last - first)


def _far_to_near(figures: Sequence[Figure], camera: Camera) -> list[Part]:
    eye = camera.position.mean(0)
    ordered = sorted(figures, key=lambda figure: -float(((figure.reference - eye) ** 2).sum()))
    return [part for figure in ordered for part in figure.parts]


def strokes_of(parts: Sequence[Part], camera: Camera) -> list[Stroke]:
    """Projects parts with a common number of frames; the strokes keep the order of the parts."""
    strokes: dict[int, Stroke] = {}
    groups: dict[int, list[Part]] = {}
    for part in parts:
        groups.setdefault(len(part.corners) if isinstance(part, Face) else 0, []).append(part)
    for group in groups.values():
        outlines = _outlines(group, camera)
        visible = _inside(outlines, camera) & _facing(group, camera)
        corners = np.clip(outlines, -_FARTHEST_PX, _FARTHEST_PX).astype(np.int32)
        polygons = corners.reshape(*corners.shape[:2], -1).tolist()
        for part, polygon, seen in zip(group, polygons, visible, strict=True):
            if not seen.all():
                polygon = [corners if shows else None for corners, shows in zip(polygon, seen.tolist(), strict=True)]
            strokes[id(part)] = Stroke(part.colour, polygon)
    return [strokes[id(part)] for part in parts]


def _outlines(group: Sequence[Part], camera: Camera) -> Array:
    """Projects parts of one kind to pixels [parts, T, corners, 2]."""
    faces = [part.corners for part in group if isinstance(part, Face)]
    if faces:
        pixels, _ = camera.project(np.stack(faces))
        return np.moveaxis(pixels, 1, 2)
    rounds = [part for part in group if isinstance(part, Round)]
    return _round_outlines(np.stack([part.ends for part in rounds], axis=1), [part.radii for part in rounds], camera)


def _round_outlines(ends: Array, radii: Sequence[tuple[float, float]], camera: Camera) -> Array:
    """Outlines of bodies between two circles [2, parts, T, 3]: the slope of the axis narrows a circle to an ellipse."""
    pixels, depth = camera.project(ends)
    radii_px = np.array(radii).T[..., None] * (camera.focal_px / depth)
    length = np.sqrt(((ends[1] - ends[0]) ** 2).sum(-1))
    narrowing = np.where(length > 0, np.abs(depth[1] - depth[0]) / np.maximum(length, 1e-9), 1.0)
    axis = pixels[1] - pixels[0]
    axis[..., 0] += 1e-6  # a ball has no axis: any direction will do
    axis /= np.sqrt((axis**2).sum(-1, keepdims=True))
    across = np.stack([-axis[..., 1], axis[..., 0]], axis=-1)
    along = axis * narrowing[..., None]
    offsets = across[..., None, :] * _ACROSS + along[..., None, :] * _ALONG
    return np.moveaxis(pixels, 0, 2)[:, :, _END] + np.moveaxis(radii_px, 0, 2)[:, :, _END, None] * offsets


def _inside(outlines: Array, camera: Camera) -> NDArray[np.bool_]:
    low, high = outlines.min(2), outlines.max(2)
    return np.asarray(((high >= 0) & (low < np.array([camera.width, camera.height]))).all(-1))


def _facing(group: Sequence[Part], camera: Camera) -> NDArray[np.bool_]:
    """Tells which parts face the camera and are shown [parts, T]."""
    num_frames = max(len(camera.position), *(len(_anchor(part)) for part in group))
    facing = np.ones((len(group), num_frames), bool)
    sided = [index for index, part in enumerate(group) if part.outward is not None]
    if sided:
        to_camera = camera.position - np.stack([_anchor(group[index]) for index in sided])
        outward = np.stack([np.asarray(group[index].outward) for index in sided])
        facing[sided] = (to_camera * outward).sum(-1) > 0
    for index, part in enumerate(group):
        if part.shown is not None:
            facing[index] &= part.shown
    return facing


def _anchor(part: Part) -> Array:
    anchor: Array = part.corners[0] if isinstance(part, Face) else part.ends[0]  # type: ignore[attr-defined]
    return anchor


def _draw_once(background: Image.Image, strokes: Sequence[Stroke], palette: Palette) -> Image.Image:
    image = background.copy()
    canvas = ImageDraw.Draw(image)
    for stroke in strokes:
        if stroke.polygons[0] is not None:
            canvas.polygon(stroke.polygons[0], fill=palette.luma[stroke.colour])
    return image


def _draw(
    background: Image.Image, strokes: Sequence[Stroke], palette: Palette, num_frames: int, supersampling: int
) -> Iterator[Planes]:
    """Draws the strokes of every frame over a copy of `background`."""
    image = background.copy()
    canvas = ImageDraw.Draw(image)
    colours = [palette.luma[stroke.colour] for stroke in strokes]
    columns = [stroke.polygons if len(stroke.polygons) > 1 else repeat(stroke.polygons[0]) for stroke in strokes]
    for _, *polygons in zip(range(num_frames), *columns):  # noqa: B905 - what stands still repeats for ever
        image.paste(background)
        for colour, polygon in zip(colours, polygons, strict=True):
            if polygon is not None:
                canvas.polygon(polygon, fill=colour)
        yield _to_planes(image, palette, supersampling)


def _to_planes(image: Image.Image, palette: Palette, supersampling: int) -> Planes:
    """The drawn image is the luma plane; chroma is looked up from it. A larger image is averaged down."""
    luma = np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width)
    if supersampling == 1:
        corners = np.ascontiguousarray(luma[::2, ::2])
        blue, red = (np.take(table, corners, mode="clip") for table in palette.chroma)
        return luma, blue, red
    blue, red = (_block_mean(np.take(table, luma, mode="clip"), 2 * supersampling) for table in palette.chroma)
    return _block_mean(luma, supersampling), blue, red


def _block_mean(values: Bytes, block: int) -> Bytes:
    height, width = values.shape
    blocks = values.reshape(height // block, block, width // block, block)
    return np.rint(blocks.mean((1, 3))).astype(np.uint8)
