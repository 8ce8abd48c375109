"""The pictures of the generated world: cameras, drawing, and the H.264 files."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageDraw

from data_builders.synthetic.cameras import Camera, ego_camera, exo_cameras, look_at
from data_builders.synthetic.config import SyntheticConfig
from data_builders.synthetic.corpus import SimulatedTake, simulate
from data_builders.synthetic.motion import HEIGHT_M, UP
from data_builders.synthetic.palette import Palette, make_palette
from data_builders.synthetic.rendering import Planes, Renderer
from data_builders.synthetic.takes import plan_takes
from data_builders.synthetic.video import write_video

SECONDS = 6.0
NEUTRAL = make_palette(np.ones(3))


@pytest.fixture(scope="module")
def take() -> SimulatedTake:
    config = SyntheticConfig(takes=2, seconds_per_take=SECONDS, frame_size=96, ego_difficulty=0.0, traps=False)
    return simulate(config, plan_takes(config)[0])


def frames_of(take: SimulatedTake, camera: Camera, supersampling: int = 1, palette: Palette = NEUTRAL) -> list[Planes]:
    renderer = Renderer(take.plan, take.motion, supersampling=supersampling)
    return [(y.copy(), u.copy(), v.copy()) for y, u, v in renderer.frames(camera, palette)]


def colour_at(planes: Planes, x: float, y: float) -> tuple[int, int, int]:
    row, column = int(y), int(x)
    return (
        int(planes[0][row, column]),
        int(planes[1][row // 2, column // 2]),
        int(planes[2][row // 2, column // 2]),
    )


def chroma_of(name: str) -> tuple[int, int]:
    return NEUTRAL.chroma[0][NEUTRAL.luma[name]], NEUTRAL.chroma[1][NEUTRAL.luma[name]]


def test_a_camera_sees_its_target_in_the_middle_and_right_is_right() -> None:
    position, target = np.array([[0.3, -1.0, 0.8]]), np.array([[0.1, 0.2, 0.0]])
    camera = Camera("cam01", 100, 60, *look_at(position, target, np.zeros(1)), focal_px=80.0)
    points = np.stack([target[0], target[0] + [0.1, 0, 0], target[0] + [0, 0, 0.1]])
    x, y, depth = camera.view(points.T.reshape(3, 3, 1).astype(np.float32), np.zeros(1, np.intp))[:, :, 0]
    np.testing.assert_allclose([x[0], y[0]], [50, 30], atol=1e-3)
    np.testing.assert_allclose(depth[0], np.linalg.norm(target - position), rtol=1e-5)
    assert x[1] > x[0]
    assert y[2] < y[0]


def test_a_moving_camera_sees_as_a_fixed_one_does_at_every_pose() -> None:
    rng = np.random.default_rng(0)
    size = (64, 64)
    attention = rng.uniform(-0.2, 0.2, (5, 3))
    moving = ego_camera(rng, "aria01", size, 0.7, attention, np.zeros((5, 3)))
    points = rng.uniform(-0.3, 0.3, (3, 2, 5)).astype(np.float32)
    together = moving.view(points, np.arange(5))
    for frame in range(5):
        pose = replace(moving, position=moving.position[:, [frame]], rotation=moving.rotation[:, :, [frame]])
        np.testing.assert_allclose(
            pose.view(points[:, :, [frame]], np.zeros(1, np.intp)), together[:, :, [frame]], rtol=1e-5
        )


def test_difficulty_widens_exo_and_shakes_ego() -> None:
    names, size = ["cam01", "cam02"], (112, 64)
    easy, hard = (exo_cameras(np.random.default_rng(0), names, size, difficulty) for difficulty in (0.0, 1.0))
    assert all(near.focal_px == pytest.approx(2 * far.focal_px) for near, far in zip(easy, hard, strict=True))
    calm, shaken = (
        ego_camera(np.random.default_rng(0), "aria01", (64, 64), difficulty, np.zeros((90, 3)), np.zeros((90, 3)))
        for difficulty in (0.0, 1.0)
    )
    assert np.ptp(shaken.rotation, axis=2).max() > 3 * np.ptp(calm.rotation, axis=2).max()
    assert shaken.focal_px > calm.focal_px


def test_pillow_reads_float32_rows_as_it_reads_lists() -> None:
    """The speed of the renderer rests on this, and on drawing into the memory of an array."""
    corners = np.array([3, 2, 28, 5, 25, 27, 4, 20], np.float32)
    by_list, by_buffer = Image.new("L", (32, 32)), Image.new("L", (32, 32))
    ImageDraw.Draw(by_list).polygon(corners.tolist(), fill=200)
    ImageDraw.Draw(by_buffer).polygon(corners, fill=200)  # type: ignore[arg-type]
    assert np.array_equal(np.asarray(by_list), np.asarray(by_buffer))
    assert np.asarray(by_list).any()


def test_objects_are_drawn_where_they_are_in_their_colour(take: SimulatedTake) -> None:
    found = 0
    for camera in take.cameras:
        first = frames_of(take, camera)[0]
        for index, item in enumerate(take.plan.items):
            centre = take.motion.positions[index, 0] + 0.3 * HEIGHT_M[item.shape] * UP
            if not camera.sees(centre, 0):
                continue
            x, y, _ = camera.view(centre.astype(np.float32).reshape(3, 1, 1), np.zeros(1, np.intp)).ravel()
            shades = {chroma_of(f"{shade} {item.colour}".strip()) for shade in ("dark", "", "light")}
            near = {colour_at(first, x + dx, y + dy)[1:] for dx in (-5, 0, 5) for dy in (-5, 0, 5)}
            found += bool(near & shades)
            assert near & shades, (camera.name, item)
    assert found >= 3 * len(take.cameras)


def test_left_and_right_sleeves_differ_and_both_hands_are_seen_by_exo(take: SimulatedTake) -> None:
    luma = [frames_of(take, camera)[0][0] for camera in take.cameras[1:]]
    for hand in ("left", "right"):
        assert any((plane == NEUTRAL.luma[f"{hand} sleeve"]).sum() > 10 for plane in luma)


def test_fixed_cameras_change_only_where_something_moves(take: SimulatedTake) -> None:
    segment = next(segment for segment in take.motion.segments if segment.item is None)
    frames = frames_of(take, take.cameras[1])
    assert np.array_equal(frames[segment.first][0], frames[segment.last - 1][0])
    changed = np.mean([not np.array_equal(a[0], b[0]) for a, b in pairwise(frames)])
    assert changed > 0.5


def test_a_take_looks_the_same_through_whatever_camera_was_asked_first(take: SimulatedTake) -> None:
    renderer = Renderer(take.plan, take.motion)
    for camera in reversed(take.cameras):
        last = [(y.copy(), u.copy(), v.copy()) for y, u, v in renderer.frames(camera, NEUTRAL)]
    assert all(
        np.array_equal(a, b)
        for x, y in zip(last, frames_of(take, take.cameras[0]), strict=True)
        for a, b in zip(x, y, strict=True)
    )


def test_supersampling_smooths_edges_and_keeps_the_picture(take: SimulatedTake) -> None:
    sharp, smooth = (frames_of(take, take.cameras[1], factor)[10] for factor in (1, 3))
    assert [plane.shape for plane in sharp] == [plane.shape for plane in smooth]
    assert len(np.unique(smooth[0])) > len(np.unique(sharp[0]))
    assert np.abs(sharp[0].astype(int) - smooth[0]).mean() < 8


def test_every_colour_of_a_palette_has_its_own_luma_near_the_true_one() -> None:
    for seed in range(20):
        palette = make_palette(np.random.default_rng(seed).uniform(0.93, 1.0, 3))
        assert len(set(palette.luma.values())) == len(palette.luma)
        assert all(16 <= luma <= 235 for luma in palette.luma.values())
    assert abs(NEUTRAL.luma["light white"] - 232) < 4


def test_videos_are_h264_with_30_frames_per_second_and_short_groups(take: SimulatedTake, tmp_path: Path) -> None:
    for camera in take.cameras[:2]:
        frames = frames_of(take, camera)
        write_video(tmp_path / "video.mp4", frames, (camera.width, camera.height))
        with av.open(str(tmp_path / "video.mp4")) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.average_rate, stream.pix_fmt) == ("h264", 30, "yuv420p")
            assert (stream.width, stream.height) == (camera.width, camera.height)
            decoded = [
                (frame.pts * stream.time_base, frame.key_frame, frame.to_ndarray())
                for frame in container.decode(stream)
            ]
        assert [float(time) for time, _, _ in decoded] == pytest.approx([index / 30 for index in range(len(frames))])
        assert [index for index, (_, key, _) in enumerate(decoded) if key] == list(range(0, len(frames), 15))
        errors = [
            np.abs(picture[: camera.height].astype(int) - frame[0]).mean()
            for (_, _, picture), frame in zip(decoded, frames, strict=True)
        ]
        assert max(errors) < 3
