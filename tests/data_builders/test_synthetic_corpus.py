"""The generated corpus on disk: the layout of Ego-Exo4D v2, its traps, determinism, and finishing after a kill."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import psutil
import pytest
from PIL import Image

from data_builders.synthetic import corpus_lines, read_ground_truth, read_sidecar
from data_builders.synthetic.config import SyntheticConfig
from data_builders.synthetic.corpus import build_corpus
from data_builders.synthetic.takes import TRAPS
from exo2ego.config import validate_config
from exo2ego.errors import ConfigError, DataError
from tests.conftest import RunPython
from tests.shared_data import REPOSITORY, shared_path

SETTINGS = ("--takes", "10", "--seconds-per-take", "4", "--frame-size", "32", "--second-annotator-share", "0.5")
VIDEOS = "frame_aligned_videos/downscaled/448"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, run_python: RunPython) -> Path:
    folder = tmp_path_factory.mktemp("world") / "corpus"
    done = run_python("-m", "data_builders.synthetic", "--out", folder, *SETTINGS, "--workers", 2)
    assert done.returncode == 0, done.stderr
    return folder


def read(root: Path, name: str) -> Any:
    return json.loads((root / name).read_text(encoding="utf-8"))


def annotations_of(root: Path, split: str = "train") -> dict[str, Any]:
    found: dict[str, Any] = read(root, f"annotations/atomic_descriptions_{split}.json")["annotations"]
    return found


def trapped(root: Path, trap: str) -> str:
    uid: str = read_sidecar(root)["traps"][trap]["take_uids"][0]
    return uid


def take_of(root: Path, uid: str) -> dict[str, Any]:
    return next(take for take in read(root, "takes.json") if take["take_uid"] == uid)


def contents(root: Path) -> dict[str, bytes]:
    """All files but the sidecar, which says when and where it was made."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.name != "synthetic.json")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def keys_of(value: Any, path: str = "") -> Iterator[str]:
    """Paths of all keys; names of takes and cameras become `*`."""
    if isinstance(value, dict):
        for key, inner in value.items():
            is_name = re.fullmatch(r"[0-9a-f-]{36}|(cam|gp|aria)[0-9]+|[0-9]+", key)
            inner_path = f"{path}/{'*' if is_name else key}"
            if not path.endswith("take_cam_id_map"):  # the reference leaves some of its maps empty
                yield inner_path
                yield from keys_of(inner, inner_path)
    elif isinstance(value, list):
        for inner in value:
            yield from keys_of(inner, f"{path}[]")


@pytest.mark.parametrize(
    "name",
    [
        "takes.json",
        "captures.json",
        "annotations/splits.json",
        "annotations/atomic_descriptions_train.json",
        "annotations/atomic_descriptions_val.json",
    ],
)
def test_json_files_have_the_keys_of_the_reference(root: Path, name: str) -> None:
    reference = json.loads((shared_path("data/synthetic") / Path(name).name).read_text(encoding="utf-8"))
    assert set(keys_of(read(root, name))) == set(keys_of(reference))


def test_every_take_has_its_synchronous_videos(root: Path) -> None:
    unreadable = trapped(root, "unreadable_video")
    takes = read(root, "takes.json")
    assert len(takes) == len({take["take_uid"] for take in takes}) == 10
    for take in takes:
        cameras = {camera["cam_id"]: str(camera["is_ego"]).lower() == "true" for camera in take["capture"]["cameras"]}
        listed = {
            stream["relative_path"]
            for camera in cameras
            for stream in take["frame_aligned_videos"].get(camera, {}).values()
        }
        folder = root / take["root_dir"] / VIDEOS
        present = {f"frame_aligned_videos/{path.name}" for path in folder.iterdir()}
        assert {path for path in listed if "_1201" not in path and "_211" not in path} == present
        lengths = []
        for path in sorted(folder.iterdir()):
            if take["take_uid"] == unreadable and path.name == "cam01.mp4":
                continue
            with av.open(str(path)) as container:
                lengths.append(sum(1 for _ in container.decode(video=0)))
        assert set(lengths) == {120}
        assert take["duration_sec"] == 4.0


def test_splits_cover_all_takes_and_withhold_the_test_narrations(root: Path) -> None:
    splits = read(root, "annotations/splits.json")
    by_split = splits["split_to_take_uids"]
    assert [len(by_split[split]) for split in ("train", "val", "test")] == [8, 2, 1]  # the unmapped take is in train
    assert splits["take_uid_to_split"] == {uid: split for split, uids in by_split.items() for uid in uids}
    assert set(annotations_of(root)) <= set(by_split["train"])
    assert set(annotations_of(root, "val")) == set(by_split["val"])
    assert not (root / "annotations" / "atomic_descriptions_test.json").exists()


def test_every_trap_is_recorded_with_a_take(root: Path) -> None:
    traps = read_sidecar(root)["traps"]
    assert set(traps) == set(TRAPS)
    assert all(len(trap["take_uids"]) >= 1 for trap in traps.values())


def test_camera_traps(root: Path) -> None:
    upenn = take_of(root, trapped(root, "head_camera"))
    is_ego = {camera["cam_id"]: camera["is_ego"] for camera in upenn["capture"]["cameras"]}
    assert is_ego["aria02"]
    assert is_ego["gp05"]
    assert not is_ego["gp06"]
    assert "aria01" not in is_ego
    gap = take_of(root, trapped(root, "missing_camera_number"))["frame_aligned_videos"]
    assert "cam03" not in gap
    assert {"cam02", "cam04", "cam05"} <= set(gap)
    for take in read(root, "takes.json"):
        assert take["frame_aligned_videos"]["best_exo"]["0"]["relative_path"] is None
        assert "collage" in take["frame_aligned_videos"]
        assert "mobile" in {camera["cam_id"] for camera in take["capture"]["cameras"]}
        assert "mobile" not in take["frame_aligned_videos"]


def test_the_unreadable_video_cannot_be_opened(root: Path) -> None:
    take = take_of(root, trapped(root, "unreadable_video"))
    with pytest.raises(av.error.InvalidDataError), av.open(str(root / take["root_dir"] / VIDEOS / "cam01.mp4")):
        pass


def test_annotation_traps(root: Path) -> None:
    by_take = annotations_of(root)
    first, second, rejected = by_take[trapped(root, "text_flags")]
    assert {row["ego_visible"] for row in second["descriptions"]} <= {"0", "1"}
    assert {row["unsure"] for row in second["descriptions"]} == {"0", None}
    assert all("subject" not in row and row["narration_subject"] == "C" for row in second["descriptions"])
    assert rejected["rejected"]
    assert rejected["descriptions"][0]["text"] == "bad job"
    times = [row["timestamp"] for row in first["descriptions"]]
    assert max(times.count(time) for time in times) == 3
    assert trapped(root, "without_narrations") not in by_take
    assert [len(one["descriptions"]) for one in by_take[trapped(root, "single_narration")]] == [1]
    unmapped = trapped(root, "unmapped_uid")
    assert unmapped in by_take
    assert unmapped not in {take["take_uid"] for take in read(root, "takes.json")}


def test_a_second_annotator_is_out_of_order_when_there_are_enough_events(tmp_path: Path) -> None:
    config = SyntheticConfig(takes=8, seconds_per_take=12, frame_size=32, exo_cameras=1, second_annotator_share=1.0)
    build_corpus(config, tmp_path / "corpus", workers=1)
    orders = [
        [row["timestamp"] for row in by_annotator[1]["descriptions"]]
        for by_annotator in annotations_of(tmp_path / "corpus").values()
        if len(by_annotator) == 2
    ]
    assert any(times != sorted(times) for times in orders)


def test_narrations_are_true_of_the_ground_truth(root: Path) -> None:
    truth = read_ground_truth(root)
    for split in ("train", "val"):
        for uid, by_annotator in annotations_of(root, split).items():
            for row in (row for one in by_annotator if not one["rejected"] for row in one["descriptions"]):
                event = min(truth[uid], key=lambda event: abs(event.timestamp_s - row["timestamp"]))
                assert abs(event.timestamp_s - row["timestamp"]) < 0.2
                assert f"the {event.colour} {event.shape}" in row["text"]
                assert f"{event.hand} hand" in row["text"]
                assert str(row["ego_visible"]).lower() in ({"true", "1"} if event.ego_visible else {"false", "0"})


def test_held_out_combinations_are_not_in_train(root: Path) -> None:
    sidecar, truth = read_sidecar(root), read_ground_truth(root)
    held_out = {tuple(combination) for combination in sidecar["held_out_combinations"]}
    assert len(held_out) == 16
    for uid, take in sidecar["takes"].items():
        if take["split"] == "train":
            assert not held_out & {event.combination for event in truth[uid]}


def test_corpus_lines_are_the_training_narrations(root: Path) -> None:
    lines = list(corpus_lines(root, seed=0))
    texts = [
        row["text"]
        for uid, by_annotator in annotations_of(root).items()
        if uid != trapped(root, "unmapped_uid")
        for one in by_annotator
        if not one["rejected"]
        for row in one["descriptions"]
    ]
    assert sorted(lines) == sorted(texts)
    assert lines != texts
    assert lines == list(corpus_lines(root, seed=0)) != list(corpus_lines(root, seed=1))


def test_without_traps_the_corpus_is_clean(tmp_path: Path) -> None:
    config = SyntheticConfig(takes=8, seconds_per_take=3, frame_size=32, exo_cameras=1, traps=False)
    build_corpus(config, tmp_path / "corpus", workers=1)
    assert not any(trap["take_uids"] for trap in read_sidecar(tmp_path / "corpus")["traps"].values())
    assert {camera for take in read(tmp_path / "corpus", "takes.json") for camera in take["frame_aligned_videos"]} == {
        "aria01",
        "cam01",
        "collage",
        "best_exo",
    }


def test_the_same_settings_give_the_same_bytes_with_any_number_of_workers(root: Path, tmp_path: Path) -> None:
    config = read_sidecar(root)["config"]
    build_corpus(SyntheticConfig(**config), tmp_path / "again", workers=1)
    assert contents(tmp_path / "again") == contents(root)
    build_corpus(SyntheticConfig(**{**config, "seed": 1}), tmp_path / "other", workers=1)
    assert contents(tmp_path / "other") != contents(root)


def test_only_what_is_missing_is_rendered_again(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "corpus"
    shutil.copytree(root, copy)
    folders = sorted((copy / "takes").iterdir())
    (
        next((folders[0] / VIDEOS).glob("cam*.mp4" if (folders[0] / VIDEOS / "cam01.mp4").exists() else "gp*.mp4"))
    ).unlink()
    (copy / "takes" / f"{folders[1].name}.partial-0123abcd").mkdir()
    before = {folder: (folder / VIDEOS).stat().st_ino for folder in folders}
    build_corpus(SyntheticConfig(**read_sidecar(root)["config"]), copy, workers=1)
    assert contents(copy) == contents(root)
    assert [folder for folder in folders if (folder / VIDEOS).stat().st_ino != before[folder]] == [folders[0]]


def test_a_killed_build_is_finished_by_the_same_command(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    command = [sys.executable, "-m", "data_builders.synthetic", "--out", str(folder), *SETTINGS, "--workers", "1"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    finished = 0
    while process.poll() is None and finished < 2:
        finished = len([take for take in folder.glob("takes/*") if ".partial-" not in take.name])
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "takes.json").exists()
    with pytest.raises(DataError, match="not finished"):
        read_ground_truth(folder)
    assert subprocess.run(command, cwd=REPOSITORY, capture_output=True).returncode == 0
    assert contents(folder) == contents(root)


@pytest.fixture
def parallel_build(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A build with two workers that has finished its first take."""
    command = [sys.executable, "-m", "data_builders.synthetic", "--out", str(tmp_path / "corpus"), "--takes", "300"]
    process = subprocess.Popen(
        [*command, "--workers", "2", "--seconds-per-take", "6"], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not list((tmp_path / "corpus").glob("takes/*_1")):
        time.sleep(0.02)
    yield process
    process.kill()
    process.communicate()


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]


def test_ctrl_c_twice_ends_the_build_at_once_and_keeps_what_is_finished(
    parallel_build: subprocess.Popen[str], tmp_path: Path
) -> None:
    for _ in range(2):
        parallel_build.send_signal(signal.SIGINT)
    _, errors = parallel_build.communicate(timeout=60)
    assert parallel_build.returncode == 130
    assert "run the same command again" in errors
    assert "Traceback" not in errors
    assert list((tmp_path / "corpus" / "takes").glob("*_1"))


def test_a_killed_worker_is_one_message(parallel_build: subprocess.Popen[str]) -> None:
    workers_of(parallel_build)[0].kill()
    _, errors = parallel_build.communicate(timeout=60)
    assert parallel_build.returncode == 3
    assert "a rendering process was killed" in errors
    assert "Traceback" not in errors


def test_workers_leave_with_a_killed_parent(parallel_build: subprocess.Popen[str]) -> None:
    workers = workers_of(parallel_build)
    assert len(workers) == 2
    parallel_build.kill()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive


def test_a_full_disk_is_one_message_and_leaves_no_half_take(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "data_builders.synthetic", "--out", str(tmp_path / "corpus"), "--takes", "2"]
    limit: Callable[[], None] = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # noqa: E731
    # coverage could not write its own file under this limit, and would say so with a traceback
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 3
    assert "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "corpus" / "takes").iterdir())


def test_other_settings_and_other_folders_are_refused(root: Path, tmp_path: Path) -> None:
    config = read_sidecar(root)["config"]
    with pytest.raises(DataError, match=r"seed is 0 there, 7 here"):
        build_corpus(SyntheticConfig(**{**config, "seed": 7}), root, workers=1)
    (tmp_path / "takes.json").write_text("[]")
    with pytest.raises(DataError, match="is not empty"):
        build_corpus(SyntheticConfig(**config), tmp_path, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["takes.json"]


def test_all_wrong_settings_are_named_at_once(tmp_path: Path, run_python: RunPython) -> None:
    flags = ("--takes", "two", "--frame-size", "33", "--exo-difficulty", "2")
    done = run_python("-m", "data_builders.synthetic", "--out", tmp_path / "corpus", *flags)
    assert done.returncode == 2
    for key in ("takes", "frame_size", "exo_difficulty"):
        assert f"{key}: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "corpus").exists()


def test_splits_that_leave_nothing_to_train_on_are_refused() -> None:
    with pytest.raises(ConfigError, match="leaves no training take"):
        validate_config(SyntheticConfig, {"takes": 2, "val_share": 0.9, "test_share": 0.5}, "test")


def test_the_contact_sheet_shows_both_views(root: Path, tmp_path: Path, run_python: RunPython) -> None:
    """A corpus that is there keeps its settings, so that they need not be given again."""
    sheet = tmp_path / "sheet.png"
    done = run_python("-m", "data_builders.synthetic", "--out", root, "--preview", sheet)
    assert done.returncode == 0, done.stderr
    with Image.open(sheet) as image:
        width, height = image.size
        colours = image.convert("RGB").getcolors(1 << 24)
    assert width > 8 * 144
    assert height > 3 * 144
    assert colours is not None
    assert len(colours) > 500
