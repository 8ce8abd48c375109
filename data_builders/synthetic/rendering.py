"""Drawing a take: who is where from frame to frame, and what a camera sees of it as the planes of a video frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
from PIL import Image, ImageDraw

from data_builders.synthetic.cameras import Camera
from data_builders.synthetic.motion import Array, Motion
from data_builders.synthetic.palette import Bytes, Palette
from data_builders.synthetic.projection import PartTable, Shot, Stroke
from data_builders.synthetic.shapes import (
    Part,
    Pose,
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


@dataclass(frozen=True)
class Figure:
    """A hand or an object while it stands still, or while it moves."""

    first: int
    last: int
    moves: bool
    parts: list[Part]
    """In drawing order."""
    reference: Array
    """[3] metres, for the order in depth."""


def make_figures(plan: Plan, motion: Motion) -> list[Figure]:
    """Cuts the lives of all hands and objects into spans of movement and rest."""
    return [
        *chain.from_iterable(_item_figures(plan, motion, item) for item in range(len(plan.items))),
        *chain.from_iterable(_hand_figures(motion, hand) for hand in range(len(HANDS))),
    ]


def _item_figures(plan: Plan, motion: Motion, index: int) -> Iterator[Figure]:
    item = plan.items[index]
    for first, last, moves in motion.spans(item=index):
        frames = slice(first, last if moves else first + 1)
        pose = Pose(*(values[index, frames] for values in (motion.positions, motion.tilts, motion.yaws, motion.lids)))
        water = water_parts(item.shape, pose) if pose.tilt.any() else []
        parts = [*water, *object_parts(item.shape, item.colour, pose)]
        yield Figure(first, last, moves, parts, pose.position.mean(0))


def _hand_figures(motion: Motion, index: int) -> Iterator[Figure]:
    for first, last, moves in motion.spans(hand=index):
        palm = motion.hands[index, first : last if moves else first + 1]
        yield Figure(first, last, moves, hand_parts(HANDS[index], palm), palm.mean(0))


class Renderer:
    """Draws one take for any number of cameras."""

    def __init__(self, plan: Plan, motion: Motion, *, supersampling: int = 1) -> None:
        self.segments = motion.segments
        self.figures = make_figures(plan, motion)
        self.table = table_parts(plan.place_of_slot)
        self.supersampling = supersampling

    @cached_property
    def _for_fixed(self) -> PartTable:
        return PartTable(self._shots([*wearer_parts(), *self.table]), per_frame=False)

    @cached_property
    def _for_moving(self) -> PartTable:
        return PartTable(self._shots(self.table), per_frame=True)

    def _shots(self, scenery: Sequence[Part]) -> list[Shot]:
        scenery_shots = [Shot(part, 0, self.segments[-1].last) for part in scenery]
        figures = [Shot(part, figure.first, figure.last) for figure in self.figures for part in figure.parts]
        return [*figures, *scenery_shots]

    def frames(self, camera: Camera, palette: Palette) -> Iterator[Planes]:
        """Yields every frame that `camera` records; for a fixed camera only what moves is drawn again.

        The arrays are used again: copy what is to outlive the next frame.
        """
        camera = camera.enlarged(self.supersampling)
        strokes = iter((self._for_fixed if camera.is_fixed else self._for_moving).strokes(camera))
        figures = [(figure, [next(strokes) for _ in figure.parts]) for figure in self.figures]
        scenery = list(strokes)
        floor = np.full((camera.height, camera.width), palette.luma["floor"], np.uint8)
        for segment in self.segments:
            eye = camera.position[:, 0 if camera.is_fixed else segment.first]
            present = [pair for pair in figures if pair[0].first <= segment.first < pair[0].last]
            present.sort(key=lambda pair: -float(((pair[0].reference - eye) ** 2).sum()))
            still = [*scenery, *(stroke for figure, own in present if not figure.moves for stroke in own)]
            moving = [stroke for figure, own in present if figure.moves for stroke in own]
            background = floor
            if camera.is_fixed:
                background = next(_draw(floor, still, palette, segment.first, segment.first + 1))
                still = []
            for luma in _draw(background, [*still, *moving], palette, segment.first, segment.last):
                yield _to_planes(luma, palette, self.supersampling)


def _draw(background: Bytes, strokes: Sequence[Stroke], palette: Palette, first: int, last: int) -> Iterator[Bytes]:
    """Draws the strokes of every frame over `background`, into one array that is yielded again and again."""
    luma = background.copy()
    canvas = _canvas(luma)
    inks = [palette.luma[stroke.colour] for stroke in strokes]
    columns = [stroke.polygons(first, last) for stroke in strokes]
    for _, *polygons in zip(range(first, last), *columns):  # noqa: B905 - what stands still repeats for ever
        np.copyto(luma, background)
        for ink, polygon in zip(inks, polygons, strict=True):
            if polygon is not None:
                canvas.polygon(polygon, fill=ink)
        yield luma


def _canvas(luma: Bytes) -> ImageDraw.ImageDraw:
    """Lets Pillow draw into the memory of an array."""
    height, width = luma.shape
    image = Image.frombuffer("L", (width, height), luma, "raw", "L", 0, 1)
    image.readonly = 0  # else ImageDraw would draw on a copy
    return ImageDraw.Draw(image)


def _to_planes(luma: Bytes, palette: Palette, supersampling: int) -> Planes:
    """What is drawn is the luma plane; chroma is looked up from it. A larger drawing is averaged down."""
    sampled = luma[::2, ::2] if supersampling == 1 else luma
    keys = sampled.tobytes()
    blue = np.frombuffer(keys.translate(palette.chroma[0]), np.uint8).reshape(sampled.shape)
    red = np.frombuffer(keys.translate(palette.chroma[1]), np.uint8).reshape(sampled.shape)
    if supersampling == 1:
        return luma, blue, red
    return _block_mean(luma, supersampling), _block_mean(blue, 2 * supersampling), _block_mean(red, 2 * supersampling)


def _block_mean(values: Bytes, block: int) -> Bytes:
    height, width = values.shape
    blocks = values.reshape(height // block, block, width // block, block)
    return np.rint(blocks.mean((1, 3))).astype(np.uint8)
