"""Workers that die or hang, runs that are killed at any write or at any time, full disks, and the Ray engine."""

from __future__ import annotations

import importlib.util
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from data_builders.clip_store import build, engines
from data_builders.clip_store.options import ClipStoreOptions
from data_builders.clip_store.parts import Part
from data_builders.clip_store.supervised_worker import Limits, SupervisedWorker
from data_builders.clip_store.video_step import VideoJob
from exo2ego import storage
from exo2ego.data.clip_store import ClipStore
from exo2ego.data.spans import Span
from exo2ego.errors import DataError
from exo2ego.storage import write_jsonl
from tests.data.generated_videos import write_video
from tests.data_builders.clip_store_corpus import IMAGE_SIZE, NUM_FRAMES, files_of, options_for, row, run_in_place
from tests.data_builders.clip_store_steps import ObedientStep
from tests.shared_data import REPOSITORY

NUM_VIDEOS = 5


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Five videos, one of them broken, and enough spans for several shards of 0.1 MB."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for number in range(NUM_VIDEOS - 1):
        write_video(folder / f"{number}.mp4", encoder_options={"g": "15"})
        rows += [row(f"{number}/{n}", f"{number}.mp4", 0.05 * n, 0.05 * n + 0.6) for n in range(10)]
    (folder / "broken.mp4").write_bytes(b"nothing")
    rows.append(row("broken", "broken.mp4", 0.0, 0.5))
    write_jsonl(folder / "conversations.jsonl", rows)
    return folder, folder / "conversations.jsonl"


@pytest.fixture(scope="module")
def whole(corpus: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a store that was made without interruption."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("whole") / "store"
    with pytest.MonkeyPatch.context() as patch:
        run_in_place(patch)
        build.build(small(corpus, out))
    files = files_of(out)
    assert len([name for name in files if name.endswith(".tar")]) >= 2
    return files


def small(corpus: tuple[Path, Path], out: Path, **more: object) -> ClipStoreOptions:
    """Options whose shards are small, so that a few clips fill several."""
    return options_for(*corpus, out, shard_mb=0.1, **more)


def worker(out: Path, deadline_s: float = 1.0) -> SupervisedWorker:
    step = ObedientStep(out, out, NUM_FRAMES, IMAGE_SIZE, "pad", "clip", 16)
    return SupervisedWorker(step, Limits(deadline_s, 1_000_000_000))


def job(video: str) -> VideoJob:
    return VideoJob(video, [Span(video, 0.0, 1.0), Span(video, 1.0, 2.0), Span(video, 2.0, 3.0)])


def test_a_worker_that_dies_hangs_or_eats_memory_costs_its_video_and_no_more(tmp_path: Path) -> None:
    ours = worker(tmp_path)
    try:
        for video, reason in {
            "dies.mp4": "worker_died",
            "hangs.mp4": "timeout",
            "stops.mp4": "timeout",
            "eats.mp4": "out_of_memory",
        }.items():
            began = time.monotonic()
            assert ours.run(job(video)) == 3
            assert time.monotonic() - began < 60
            rows = Part.of(tmp_path, video).rows()
            assert set(rows["reason"].to_pylist()) == {reason}
            assert rows["video"].to_pylist() == [video] * 3
            assert not Part.of(tmp_path, video).is_current(tmp_path / video, 3), "another run tries it again"
        for video in ("well.mp4", "slow.mp4", "dies_once.mp4"):
            assert ours.run(job(video)) == 3
            assert not Part.of(tmp_path, video).rows_path.exists()
        with pytest.raises(OSError, match="No space left"):
            ours.run(job("full.mp4"))
        assert ours.run(job("well.mp4")) == 3
        child = ours.process_id
    finally:
        ours.close()
    assert child is not None
    assert not psutil.pid_exists(child)


def test_a_run_that_is_killed_at_any_write_continues_to_the_same_bytes(
    corpus: tuple[Path, Path], whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "store"
    for before in (True, False):
        shutil.rmtree(out, ignore_errors=True)
        number = 0
        while _killed_at_write(corpus, out, number, before=before):
            number = (number + 1) % 5
        assert files_of(out) == whole
        assert sorted(path.name for path in out.iterdir()) == sorted([*whole, "store.json"])


def _killed_at_write(corpus: tuple[Path, Path], out: Path, number: int, *, before: bool) -> bool:
    """Continues the run in a child that kills itself at its write `number`; returns whether it came so far."""
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        assert status in (0, signal.SIGKILL), "the run neither ended well nor was killed"
        return bool(status)
    replace, count = storage._replace, iter(range(1_000_000))

    def deadly(temporary: Path, path: Path) -> None:
        is_last = next(count) == number
        if not (is_last and before):
            replace(temporary, path)
        if is_last:
            os.kill(os.getpid(), signal.SIGKILL)

    storage._replace = deadly
    status = 1
    try:
        with pytest.MonkeyPatch.context() as patch:
            run_in_place(patch)
            build.build(small(corpus, out))
        status = 0
    finally:
        os._exit(status)


def test_a_full_disk_is_one_message_and_keeps_what_is_complete(
    corpus: tuple[Path, Path], whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_in_place(monkeypatch)
    out = tmp_path / "store"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(DataError, match="the disk is full"):
            build.build(small(corpus, out))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(out.rglob("*.partial-*"))
    build.build(small(corpus, out))
    assert files_of(out) == whole


def test_two_runs_never_write_one_store(
    corpus: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_in_place(monkeypatch)
    with build._only_run(tmp_path), pytest.raises(DataError, match="another run is writing this store"):
        build.build(small(corpus, tmp_path))


@pytest.mark.slow
def test_the_command_survives_kills_of_itself_and_of_its_workers(
    corpus: tuple[Path, Path], whole: dict[str, bytes], tmp_path: Path
) -> None:
    """The real command with real processes: killed once a part is there, then with a worker killed, then to its end."""
    out = tmp_path / "store"
    command = [sys.executable, "-m", "data_builders.clip_store", "--clips", str(corpus[1]), "--media-root"]
    command += [str(corpus[0]), "--num-frames", "4", "--image-size", "96", "--max-failure-rate", "1", "--workers", "2"]
    command += ["--shard-mb", "0.1", "--out", str(out)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL) as run:
        while run.poll() is None and not list(out.glob("parts/*.arrow")):
            time.sleep(0.01)
        run.kill()
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL) as run:
        killed = False
        while run.poll() is None and not killed:
            for child in psutil.Process(run.pid).children():
                if "spawn_main" in _title(child):
                    child.kill()
                    killed = True
                    break
            time.sleep(0.05)
        assert killed
        assert run.wait(timeout=300) == 0
    assert files_of(out) == whole
    assert not [process for process in psutil.process_iter() if str(out) in _title(process)]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra exo2ego[ray]")
def test_ray_gives_the_same_bytes_although_a_worker_is_killed(
    corpus: tuple[Path, Path], whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    run_in_place(monkeypatch)  # the sampling of the plan; the work itself goes to Ray
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    killed: list[int] = []
    stop = threading.Event()

    def kill_one() -> None:
        while not killed and not stop.is_set():
            for process in psutil.Process().children(recursive=True):
                if "RayVideoStep" in _title(process) and list((tmp_path / "store" / "parts").glob("*.arrow")):
                    process.kill()
                    killed.append(process.pid)
                    return
            time.sleep(0.02)

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        build.build(small(corpus, tmp_path / "store", engine="ray", workers=2))
    finally:
        stop.set()
        killer.join()
        ray.shutdown()
    assert killed, "the work was done before a worker could be killed"
    assert files_of(tmp_path / "store") == whole
    assert ClipStore(tmp_path / "store").description.account["written"] == 40


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_no_job_needs_no_worker() -> None:
    options = ClipStoreOptions(clips=[Path("x")], media_root=Path(), out=Path("y"))
    step = ObedientStep(Path(), Path(), NUM_FRAMES, IMAGE_SIZE, "pad", "clip", 16)
    assert list(engines.run_jobs(options, step, [])) == []
