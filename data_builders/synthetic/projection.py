"""Projecting the parts of a whole take into a camera at once: one row of a table per part and frame."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from data_builders.synthetic.cameras import Camera
from data_builders.synthetic.motion import Array
from data_builders.synthetic.shapes import Part, Round

Floats = NDArray[np.float32]
Polygon = Floats
"""[2K] x, y, x, y, ... in pixels; Pillow reads a buffer of float32 much faster than a list."""

# The outline of a round part: half of an octagon round its first end, and the other half round its second.
_ANGLES = np.deg2rad([-67.5, -22.5, 22.5, 67.5, 67.5, 22.5, -22.5, -67.5]).astype(np.float32)[:, None]
ACROSS = np.sin(_ANGLES)
ALONG = np.cos(_ANGLES) * np.repeat(np.array([-1, 1], np.float32), 4)[:, None]
END = np.repeat([0, 1], 4)


@dataclass(frozen=True)
class Shot:
    """A part during frames [first, last)."""

    part: Part
    first: int
    last: int


@dataclass(frozen=True)
class Stroke:
    """A part as one camera sees it from frame `first` on."""

    colour: str
    first: int
    corners: Floats
    """[T or 1, 2K] polygons; a single one stands still."""
    visible: NDArray[np.bool_]
    """[T or 1] whether any of it can be seen."""

    def polygons(self, first: int, last: int) -> Iterable[Polygon | None]:
        """Returns the polygon of every frame in [first, last); None where it is hidden or outside the frame."""
        if len(self.corners) == 1:
            return repeat(self.corners[0] if self.visible[0] else None)
        frames = slice(first - self.first, last - self.first)
        corners, visible = self.corners[frames], self.visible[frames]
        return corners if visible.all() else [row if seen else None for row, seen in zip(corners, visible, strict=True)]


class PartTable:
    """Parts in the order in which their strokes are wanted; a moving camera, which sees all move, needs `per_frame`."""

    def __init__(self, shots: Sequence[Shot], *, per_frame: bool) -> None:
        groups: dict[int, list[int]] = {}
        for index, shot in enumerate(shots):
            groups.setdefault(len(shot.part.points), []).append(index)
        self._num_shots = len(shots)
        self._groups = [
            (indices, _Group([shots[index] for index in indices], per_frame)) for indices in groups.values()
        ]

    def strokes(self, camera: Camera) -> list[Stroke]:
        """Projects all parts into a camera."""
        strokes: list[Stroke | None] = [None] * self._num_shots
        for indices, group in self._groups:
            for index, stroke in zip(indices, group.strokes(camera), strict=True):
                strokes[index] = stroke
        return [stroke for stroke in strokes if stroke is not None]


class _Group:
    """N rows of parts with the same number K of points. Arrays have coordinates first, which is fastest in numpy."""

    def __init__(self, shots: Sequence[Shot], per_frame: bool) -> None:
        parts = [shot.part for shot in shots]
        self.shots = shots
        self.lengths = [
            shot.last - shot.first if per_frame else part.points.shape[1]
            for shot, part in zip(shots, parts, strict=True)
        ]
        self.ends = np.cumsum(self.lengths).tolist()
        frames = [np.arange(shot.first, shot.first + length) for shot, length in zip(shots, self.lengths, strict=True)]
        self.frames = np.concatenate(frames)
        self.points = self._rows([part.points.transpose(2, 0, 1) for part in parts])
        radii = [part.radii for part in parts if isinstance(part, Round)]
        self.radii = np.repeat(np.array(radii, np.float32).T, self.lengths, axis=1) if radii else None
        either = np.zeros((1, 3))
        self.outward = self._rows([(either if part.outward is None else part.outward).T for part in parts])
        always = np.ones(1)
        self.shown = self._rows([always if part.shown is None else part.shown for part in parts]) > 0

    def _rows(self, values: Sequence[Array | NDArray[np.bool_]]) -> Floats:
        """Joins arrays [..., T or 1] along the last axis to [..., N]."""
        full = [
            value if value.shape[-1] == length else np.broadcast_to(value, (*value.shape[:-1], length))
            for value, length in zip(values, self.lengths, strict=True)
        ]
        return np.concatenate(full, axis=-1, dtype=np.float32)

    def strokes(self, camera: Camera) -> list[Stroke]:
        """Projects the rows and cuts them into strokes."""
        seen = camera.view(self.points, self.frames)
        corners = seen[:2] if self.radii is None else _outlines(seen, self.points, self.radii, camera.focal_px)
        size = np.array([[camera.width], [camera.height]])
        inside = ((corners.max(1) >= 0) & (corners.min(1) < size)).all(0)
        towards = camera.position_at(self.frames) - self.points[:, 0]
        visible = inside & self.shown & ((self.outward * towards).sum(0) >= 0)
        interleaved = np.ascontiguousarray(corners.transpose(2, 1, 0), np.float32).reshape(len(self.frames), -1)
        return [
            Stroke(shot.part.colour, shot.first, interleaved[end - length : end], visible[end - length : end])
            for shot, length, end in zip(self.shots, self.lengths, self.ends, strict=True)
        ]


def _outlines(seen: Floats, points: Floats, radii_m: Floats, focal_px: float) -> Floats:
    """Outlines [2, 8, N] of bodies between two circles, from their centres `seen` [3: x, y, depth; 2, N]."""
    radii_px = radii_m * np.float32(focal_px) / seen[2]
    length = np.sqrt(((points[:, 1] - points[:, 0]) ** 2).sum(0))
    # Seen along its axis a circle is a circle; across, it is an ellipse, the narrower the more level the axis is.
    narrowing = np.where(length > 0, np.abs(seen[2, 1] - seen[2, 0]) / np.maximum(length, 1e-9), 1.0)
    axis = seen[:2, 1] - seen[:2, 0]
    axis[0] += 1e-6  # a ball has no axis: any direction will do
    axis /= np.sqrt((axis**2).sum(0))
    across = np.stack([-axis[1], axis[0]])
    offsets = across[:, None] * ACROSS + (axis * narrowing)[:, None] * ALONG
    outlines: Floats = seen[:2, END] + radii_px[END] * offsets
    return outlines
