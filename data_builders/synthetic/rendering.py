"""Drawing a take: who is where from frame to frame, and what a camera sees of it as the planes of a video frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, repeat

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
        parts = [*water_parts(item.shape, pose), *object_parts(item.shape, item.colour, pose)]
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
        """Yields every frame that `camera` records; for a fixed camera only what moves is drawn again."""
        camera = camera.enlarged(self.supersampling)
        strokes = iter((self._for_fixed if camera.is_fixed else self._for_moving).strokes(camera))
        figures = [(figure, [next(strokes) for _ in figure.parts]) for figure in self.figures]
        scenery = list(strokes)
        floor = Image.new("L", (camera.width, camera.height), palette.luma["floor"])
        for segment in self.segments:
            eye = camera.position[:, 0 if camera.is_fixed else segment.first]
            present = [pair for pair in figures if pair[0].first <= segment.first < pair[0].last]
            present.sort(key=lambda pair: -float(((pair[0].reference - eye) ** 2).sum()))  # noqa: B023 - used at once
            still = [*scenery, *(stroke for figure, own in present if not figure.moves for stroke in own)]
            moving = [stroke for figure, own in present if figure.moves for stroke in own]
            background = floor
            if camera.is_fixed:
                background = next(_draw(floor, still, palette, segment.first, segment.first + 1)).copy()
                still = []
            for image in _draw(background, [*still, *moving], palette, segment.first, segment.last):
                yield _to_planes(image, palette, self.supersampling)


def _draw(
    background: Image.Image, strokes: Sequence[Stroke], palette: Palette, first: int, last: int
) -> Iterator[Image.Image]:
    """Draws the strokes of every frame over `background`, into one image that is yielded again and again."""
    image = background.copy()
    canvas = ImageDraw.Draw(image)
    lumas = [palette.luma[stroke.colour] for stroke in strokes]
    columns = [
        stroke.polygons[first - stroke.first : last - stroke.first] if len(stroke.polygons) > 1 else repeat(stroke.polygons[0])
        for stroke in strokes
    ]
    for _, *polygons in zip(range(first, last), *columns):  # noqa: B905 - what stands still repeats for ever
        image.paste(background)
        for luma, polygon in zip(lumas, polygons, strict=True):
            if polygon is not None:
                canvas.polygon(polygon, fill=luma)
        yield image


def _to_planes(image: Image.Image, palette: Palette, supersampling: int) -> Planes:
    """The drawn image is the luma plane; chroma is looked up from it. A larger image is averaged down."""
    luma = np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width)
    step = 2 if supersampling == 1 else 1
    sampled = luma[::step, ::step]
    looked_up = sampled.tobytes()
    blue, red = (np.frombuffer(looked_up.translate(table), np.uint8).reshape(sampled.shape) for table in palette.chroma)
    if supersampling == 1:
        return luma, blue, red
    return _block_mean(luma, supersampling), _block_mean(blue, 2 * supersampling), _block_mean(red, 2 * supersampling)


def _block_mean(values: Bytes, block: int) -> Bytes:
    height, width = values.shape
    blocks = values.reshape(height // block, block, width // block, block)
    return np.rint(blocks.mean((1, 3))).astype(np.uint8)
