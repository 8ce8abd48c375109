"""Where the cameras are and how they see: fixed exocentric cameras round the table, one that moves with the head."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from data_builders.synthetic.config import FRAMES_PER_SECOND
from data_builders.synthetic.motion import Array

HEAD_M = np.array([0.0, -0.44, 0.62])
ACTION_CENTRE_M = np.array([0.0, 0.02, 0.08])
"""Middle of where things happen."""
EXO_DISTANCE_M = 1.25
EXO_ELEVATION_RAD = np.deg2rad(58)
EXO_FIELD_M = 0.94
"""Width of the scene that fills an exocentric frame at difficulty 0."""
EGO_FIELD_RAD = np.deg2rad(66)
NEAREST_DEPTH_M = 0.1

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera, fixed (T = 1) or moving (T frames)."""

    name: str
    width: int
    height: int
    position: Floats
    """[3, T] metres."""
    rotation: Floats
    """[3: right, down, forward; 3; T]"""
    focal_px: float

    @property
    def is_fixed(self) -> bool:
        """Whether the camera never moves."""
        return self.position.shape[1] == 1

    def enlarged(self, factor: int) -> Camera:
        """Returns the same view with `factor` times as many pixels per side."""
        return replace(self, width=factor * self.width, height=factor * self.height, focal_px=factor * self.focal_px)

    def position_at(self, frames: NDArray[np.intp]) -> Floats:
        """Returns the positions [3, N] at `frames` [N], or the only one [3, 1]."""
        return self.position if self.is_fixed else np.take(self.position, frames, axis=1)

    def view(self, points: Floats, frames: NDArray[np.intp]) -> Floats:
        """Projects world points [3, K, N], point n as of frame `frames[n]`, to pixels x, y and depth [3, K, N]."""
        rotation = self.rotation if self.is_fixed else np.take(self.rotation, frames, axis=2)
        x, y, z = points - self.position_at(frames)[:, None]
        seen = np.empty_like(points)
        for (along_x, along_y, along_z), row in zip(rotation, seen, strict=True):
            row[:] = along_x * x + along_y * y + along_z * z
        np.maximum(seen[2], NEAREST_DEPTH_M, out=seen[2])
        seen[:2] *= np.float32(self.focal_px) / seen[2]
        seen[0] += np.float32(self.width / 2)
        seen[1] += np.float32(self.height / 2)
        return seen

    def sees(self, point: Array, frame: int) -> bool:
        """Tells whether a world point [3] is inside the frame."""
        x, y, depth = self.view(point.astype(np.float32).reshape(3, 1, 1), np.array([frame])).ravel()
        return bool(0 <= x < self.width and 0 <= y < self.height and depth > NEAREST_DEPTH_M)


def look_at(position: Array, target: Array, roll_rad: Array) -> tuple[Floats, Floats]:
    """Returns position [3, T] and rotation [3, 3, T] of a camera at `position` [T, 3] that looks at `target` [T, 3]."""
    forward = target - position
    forward = forward / np.linalg.norm(forward, axis=-1, keepdims=True)
    right = np.cross(forward, np.array([0.0, 0.0, 1.0]))
    right = right / np.linalg.norm(right, axis=-1, keepdims=True)
    down = np.cross(forward, right)
    cosine, sine = np.cos(roll_rad)[:, None], np.sin(roll_rad)[:, None]
    axes = np.stack([cosine * right + sine * down, cosine * down - sine * right, forward])
    return position.T.astype(np.float32), axes.transpose(0, 2, 1).astype(np.float32)


def exo_cameras(rng: np.random.Generator, names: list[str], size: tuple[int, int], difficulty: float) -> list[Camera]:
    """Places fixed cameras evenly on an arc opposite the wearer.

    With `difficulty` d the arc reaches 20 + 55 d degrees to either side, every camera is turned by up to another
    5 + 30 d degrees and rolled by up to 12 d degrees, sees a field that is wider by 1 + d, and aims up to 0.25 d metres
    off the centre.
    """
    width, height = size
    cameras = []
    for number, name in enumerate(names):
        azimuth = np.deg2rad((2 * (number + 0.5) / len(names) - 1) * (20 + 55 * difficulty))
        azimuth += np.deg2rad(rng.uniform(-1, 1) * (5 + 30 * difficulty))
        elevation = EXO_ELEVATION_RAD + np.deg2rad(rng.uniform(-4, 4))
        direction = np.array(
            [np.sin(azimuth) * np.cos(elevation), np.cos(azimuth) * np.cos(elevation), np.sin(elevation)]
        )
        aim = ACTION_CENTRE_M + 0.25 * difficulty * np.array([*rng.uniform(-1, 1, 2), 0.0])
        position = ACTION_CENTRE_M + EXO_DISTANCE_M * direction
        roll = np.deg2rad(rng.uniform(-12, 12) * difficulty)
        focal_px = width * EXO_DISTANCE_M / (EXO_FIELD_M * (1 + difficulty))
        cameras.append(Camera(name, width, height, *look_at(position[None], aim[None], np.array([roll])), focal_px))
    return cameras


def ego_camera(
    rng: np.random.Generator, name: str, size: tuple[int, int], difficulty: float, attention: Array, glances: Array
) -> Camera:
    """Puts a camera on the head, near the table.

    With `difficulty` d the head turns only 0.7 (1 - d) of the way from the middle of the table to `attention` [T, 3],
    follows `glances` [T, 3] (metres, offsets away from the action), wanders by about 0.5 + 8 d degrees, rolls by up to
    40 d degrees, and the image is zoomed by 1 + 0.8 d.
    """
    width, height = size
    num_frames = len(attention)
    time_s = np.arange(num_frames) / FRAMES_PER_SECOND
    calm_target = ACTION_CENTRE_M + 0.7 * (1 - difficulty) * (attention - ACTION_CENTRE_M)
    wander = np.stack([_wander(rng, time_s) for _ in range(3)], axis=1)
    distance = np.linalg.norm(calm_target - HEAD_M, axis=1, keepdims=True)
    target = calm_target + glances + distance * np.deg2rad(0.5 + 8 * difficulty) * wander
    position = HEAD_M + 0.02 * np.stack([_wander(rng, time_s) for _ in range(3)], axis=1)
    roll = np.deg2rad(40 * difficulty) * _wander(rng, time_s)
    focal_px = (1 + 0.8 * difficulty) * height / 2 / math.tan(EGO_FIELD_RAD / 2)
    return Camera(name, width, height, *look_at(position, target, roll), focal_px)


def _wander(rng: np.random.Generator, time_s: Array) -> NDArray[np.float64]:
    """A smooth movement within about +-1: three sinusoids of human head frequencies."""
    frequencies, phases = rng.uniform(0.15, 1.2, 3), rng.uniform(0, 2 * np.pi, 3)
    waves = np.sin(2 * np.pi * frequencies * time_s[:, None] + phases)
    return np.asarray(waves @ np.array([0.5, 0.3, 0.2]))
