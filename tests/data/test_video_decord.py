"""The two decoders beside each other, frame by frame; and decord's process, which may die without taking us along."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from exo2ego.data.decoders import decord_process
from exo2ego.data.video import probe, read_frames
from exo2ego.errors import VideoError
from tests.data.generated_videos import numbers, write_video
from tests.shared_data import shared_path

REAL_CLIPS = {  # name: (width, height, frames, seconds)
    "askanything_making_cake.mp4": (320, 426, 300, 10.0),
    "ego4d_3c0dffd0_012_014.mp4": (384, 288, 60, 2.0),
    "sam2_02_cups.mp4": (1280, 720, 300, 10.01),
    "sam2_04_coffee.mp4": (1280, 720, 287, 9.576),
    "videollama2_sample_demo_3.mp4": (640, 360, 146, 6.089),
}


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("decord") / "video.mp4")


@pytest.mark.parametrize("name", REAL_CLIPS)
def test_every_frame_of_the_real_clips_equals_the_second_decoders(name: str) -> None:
    path = shared_path("data/real/video") / name
    width, height, num_frames, duration_s = REAL_CLIPS[name]
    info = probe(path)
    assert (info.width, info.height, info.num_frames, info.codec) == (width, height, num_frames, "h264")
    assert info.duration_s == pytest.approx(duration_s, abs=0.001)
    child = decord_process._Child()
    child.ask(path, {"open": str(path)})
    chunk = 30
    for first in range(0, num_frames, chunk):
        last = min(first + chunk, num_frames) - 1
        ours = read_frames(path, first / info.frame_rate, last / info.frame_rate, last - first + 1)
        theirs = child.ask(path, {"read": list(range(first, last + 1))})
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("name", REAL_CLIPS)
def test_sparse_frames_of_the_real_clips_equal_through_either_back_end(name: str) -> None:
    path = shared_path("data/real/video") / name
    for span in ((None, None), (0.31, 0.92)):
        ours = read_frames(path, *span, 16)
        np.testing.assert_array_equal(ours, read_frames(path, *span, 16, decoder="decord"))


@pytest.mark.parametrize("name", ["uneven.mp4", "vp9.webm", "rotated.mp4", "h264.mkv"])
def test_generated_kinds_are_equal_through_either_back_end(tmp_path: Path, name: str) -> None:
    times_ms = [0, 40, 50, 180, 200, 420, 430, 600, 610, 700, 705, 900] if name.startswith("uneven") else None
    codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
    rotation = 90 if name.startswith("rotated") else None
    path = write_video(tmp_path / name, 12, codec=codec, times_ms=times_ms, rotation=rotation)
    for span in ((None, None), (0.11, 0.29), (0.31, 0.31)):
        ours = read_frames(path, *span, 5)
        np.testing.assert_array_equal(ours, read_frames(path, *span, 5, decoder="decord"))


def test_decord_refuses_what_it_has_no_times_for(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.avi", 12)
    with pytest.raises(VideoError, match="use the pyav decoder"):
        read_frames(path, None, None, 4, decoder="decord")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("import os; os.abort()", "decoder_died"),
        ("raise SystemExit(3)", "decoder_died"),
        ("import time; time.sleep(60)", "timeout"),
        ('print(\'{"dtype": "uint8", "shape": [5, 2]}\\nabc\', end="")', "decoder_died"),
    ],
)
def test_a_child_that_dies_or_hangs_is_one_unreadable_video(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, reason: str
) -> None:
    stand_in = tmp_path / "child.py"
    stand_in.write_text(body)
    with monkeypatch.context() as patched:
        patched.setattr(decord_process, "CHILD_PATH", stand_in)
        patched.setattr(decord_process, "DEADLINE_S", 1.0)
        decord_process._child.cache_clear()
        with pytest.raises(VideoError) as caught:
            read_frames(video, None, None, 4, decoder="decord")
        assert caught.value.reason == reason
    assert numbers(read_frames(video, 0.0, 0.1, 4, decoder="decord")) == [0, 1, 2, 3]  # the next video is read


def test_forked_workers_have_children_of_their_own(video: Path) -> None:
    """A loader's worker is a daemon and a fork; it must neither share our child nor be refused one."""
    read_frames(video, 0.0, 0.0, 1, decoder="decord")
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    workers = [context.Process(target=_read_in_worker, args=(video, k, queue), daemon=True) for k in range(2)]
    for worker in workers:
        worker.start()
    results = dict(queue.get() for _ in workers)
    for worker in workers:
        worker.join(20)
    assert results == {k: [k] * 2 for k in range(2)}
    assert numbers(read_frames(video, 1.0, 1.0, 1, decoder="decord")) == [30]


def _read_in_worker(video: Path, number: int, queue: multiprocessing.queues.SimpleQueue) -> None:
    queue.put((number, numbers(read_frames(video, number / 30, number / 30, 2, decoder="decord"))))
    os._exit(0)
