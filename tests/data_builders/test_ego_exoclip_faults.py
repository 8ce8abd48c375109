"""The Ego-ExoClip builder on bad input, on a full disk, and killed."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_builders.ego_exoclip.__main__ import main
from data_builders.ego_exoclip.video_check import check_videos, probe
from exo2ego.data.clips import read_clips
from exo2ego.errors import DataError
from exo2ego.raw import json_stream
from exo2ego.raw.json_stream import stream_list, stream_object
from exo2ego.storage import TEMPORARY_MARK
from tests.data_builders.ego_exoclip_corpus import add_videos, annotation, described, take, write_corpus, write_video
from tests.shared_data import REPOSITORY

INTERRUPTED_MESSAGE = "interrupted: what was finished is kept; run the same command again to continue\n"
DESCRIPTIONS = "annotations/atomic_descriptions_train.json"


def corpus(root: Path, num_takes: int = 2) -> Path:
    takes = [take(number) for number in range(num_takes)]
    narrated = [annotation(0, [described(1.0), described(2.5)])]
    return write_corpus(root, takes, {row["take_uid"]: narrated for row in takes})


def run(root: Path, out: Path, *options: str) -> int:
    return main(["--root", str(root), "--out", str(out), *options])


def start(root: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "data_builders.ego_exoclip", "--root", str(root), "--out", str(out), *options]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def stop_when(process: subprocess.Popen[str], ready: Callable[[], bool], number: signal.Signals) -> tuple[int, str]:
    """Signals the process as soon as `ready` says so; returns its exit code and what it wrote to stderr."""
    deadline = time.monotonic() + 60
    while not ready():
        assert process.poll() is None, f"ended too early: {process.communicate()[1]}"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    return process.returncode, error


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=50)
@given(st.lists(json_values, max_size=6), st.integers(1, 9), st.sampled_from([None, 1]))
def test_streams_read_what_json_reads(
    tmp_path_factory: pytest.TempPathFactory, values: list[object], window: int, indent: int | None
) -> None:
    path = tmp_path_factory.mktemp("json") / "values.json"
    members = {str(number): value for number, value in enumerate(values)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_WINDOW_CHARACTERS", window)
        path.write_text(json.dumps(values, indent=indent), encoding="utf-8")
        assert list(stream_list(path, "list")) == values
        path.write_text(json.dumps({"ds": 1.5, "wanted": members, "last": []}, ensure_ascii=False), encoding="utf-8")
        assert dict(stream_object(path, "wanted", "object")) == members


@given(st.data())
def test_streams_notice_every_cut(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("json") / "cut.json"
    text = json.dumps({"ds": "1", "wanted": {"a": [1, {"b": "c"}], "d": None}, "last": [2]}, indent=1)
    length = data.draw(st.integers(0, len(text) - 1))
    path.write_text(text[:length])
    with pytest.raises(DataError, match=r"cut\.json: object is not valid JSON: line \d+"):
        list(stream_object(path, "wanted", "object"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2", "line 1: expected ','"),
        ("[1,\n2,\n]", "line 3: Expecting value"),
        ("[1] 2", "expected the end of the file"),
        ('{"a": 1}', r"expected '\['"),
        ("", r"expected '\['"),
    ],
)
def test_malformed_lists(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(DataError, match=message):
        list(stream_list(tmp_path / "list.json", "list"))


def test_absent_key_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": {}}')
    with pytest.raises(DataError, match="has no `b`"):
        list(stream_object(tmp_path / "a.json", "b", "object"))
    (tmp_path / "b.json").write_bytes(b'["\xff\xfe"]')
    with pytest.raises(DataError, match=r"b\.json: list cannot be read"):
        list(stream_list(tmp_path / "b.json", "list"))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda root: (root / "takes.json").unlink(), "no takes.json (--parts metadata)"),
        (lambda root: (root / DESCRIPTIONS).unlink(), "no annotations/atomic_descriptions_train.json (--parts annot"),
        (lambda root: (root / DESCRIPTIONS).write_bytes((root / DESCRIPTIONS).read_bytes()[:300]), "is not valid JSON"),
        (
            lambda root: (root / "takes.json").write_text('[{"take_uid": "a"}]'),
            "take number 0 (None) is not an Ego-Exo4D",
        ),
        (lambda root: (root / "takes.json").write_text(json.dumps([take(0)] * 2)), "uid-0 is given twice"),
        (lambda root: (root / "annotations/splits.json").write_text("{}"), "has no `take_uid_to_split`"),
        (lambda root: (root / DESCRIPTIONS).write_text('{"annotations": {"uid-0": [{}]}}'), "take uid-0 does not have"),
        (lambda root: (root / DESCRIPTIONS).write_text('{"annotations": {"uid-0": [3]}}'), "take uid-0 does not have"),
    ],
)
def test_bad_input_is_one_message_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], break_it: Callable[[Path], object], message: str
) -> None:
    root = corpus(tmp_path / "root")
    break_it(root)
    assert run(root, tmp_path / "out", "--no-files") == DataError.exit_code
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert list((tmp_path / "out").glob("*")) == []


def test_a_wrong_root_is_pointed_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = corpus(tmp_path / "root")
    assert run(root / "annotations", tmp_path / "out") == DataError.exit_code
    assert f"did you mean --root {root}?" in capsys.readouterr().err
    assert run(root.parent, tmp_path / "out") == DataError.exit_code
    assert f"did you mean --root {root}?" in capsys.readouterr().err
    assert run(root / "nowhere", tmp_path / "out") == DataError.exit_code
    assert "this folder does not exist" in capsys.readouterr().err


def test_a_take_given_twice_in_the_annotations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = corpus(tmp_path / "root")
    narrated = json.dumps([annotation(0, [described(1.0)])])
    (root / DESCRIPTIONS).write_text(f'{{"annotations": {{"uid-0": {narrated}, "uid-0": {narrated}}}}}')
    assert run(root, tmp_path / "out", "--no-files") == DataError.exit_code
    assert "'uid-0' is given twice" in capsys.readouterr().err


def test_a_path_may_not_leave_its_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = take(0)
    row["frame_aligned_videos"]["cam01"]["0"]["relative_path"] = "../../secret.mp4"
    write_corpus(tmp_path, [row], {})
    assert run(tmp_path, tmp_path / "out", "--no-files") == DataError.exit_code
    assert "leaves the folder of the take" in capsys.readouterr().err


def test_without_videos_the_message_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(corpus(tmp_path / "root"), tmp_path / "out") == DataError.exit_code
    error = capsys.readouterr().err
    assert "takes dropped: 2 ego_video_unusable" in error
    assert "--no-files" in error


def test_a_failed_build_keeps_the_former_one(tmp_path: Path) -> None:
    root, out = corpus(tmp_path / "root"), tmp_path / "out"
    assert run(root, out, "--no-files") == 0
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    (root / DESCRIPTIONS).write_text("{")
    assert run(root, out, "--no-files") == DataError.exit_code
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_a_full_disk(tmp_path: Path) -> None:
    root, out = corpus(tmp_path / "root", num_takes=200), tmp_path / "out"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    command = [sys.executable, "-m", "data_builders.ego_exoclip", "--root", root, "--out", out, "--no-files"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, preexec_fn=limit, check=False)
    assert done.returncode == DataError.exit_code, done.stderr
    assert "the disk is full" in done.stderr
    assert list(out.iterdir()) == []


def test_a_killed_build_is_simply_run_again(tmp_path: Path) -> None:
    root, out = corpus(tmp_path / "root", num_takes=50), tmp_path / "out"
    assert run(root, out, "--no-files", "--alpha", "1.92") == 0
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    process = start(root, out, "--no-files")
    code, _ = stop_when(process, lambda: any(out.glob(f"clips.arrow{TEMPORARY_MARK}*")), signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert list(out.glob(f"*{TEMPORARY_MARK}*"))
    assert {name: (out / name).read_bytes() for name in before} == before
    assert run(root, out, "--no-files") == 0
    assert not list(out.glob(f"*{TEMPORARY_MARK}*"))
    assert len(read_clips(out / "clips.parquet")) == 100
    assert json.loads((out / "stats.json").read_text())["alpha"] == "auto"


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "any.mp4")


def test_probing_one_video(tmp_path: Path, video: Path) -> None:
    found = probe(video.parent, video.name)
    assert (found.state, found.width, found.height, found.fps) == ("readable", 32, 32, 30.0)
    assert found.duration_s == pytest.approx(2.0)
    data = video.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mp4").touch()
    states = [probe(tmp_path, name) for name in ("cut.mp4", "text.mp4", "empty.mp4", "absent.mp4")]
    assert [state.state for state in states] == ["truncated", "unreadable", "unreadable", "missing"]
    assert "the file states 2.00 s" in states[0].detail


def test_checked_videos_that_fail_are_left_out(tmp_path: Path, video: Path) -> None:
    root, out = corpus(tmp_path / "root", num_takes=3), tmp_path / "out"
    paths = add_videos(root, [take(number) for number in range(3)], video)
    paths[1].write_text("broken")  # cam01 of take 0
    paths[3].unlink()  # ego of take 1
    assert run(root, out, "--check-videos", "--workers", "2") == 0
    clips = read_clips(out / "clips.parquet")
    assert {clip.take_uid: len(clip.exo_videos) for clip in clips} == {"uid-0": 1, "uid-2": 2}
    report = (out / "report.md").read_text(encoding="utf-8")
    assert "1 missing, 7 readable, 1 unreadable" in report
    assert f"| {paths[1].relative_to(root)} | unreadable |" in report


def test_a_stopped_video_check_continues(tmp_path: Path, video: Path) -> None:
    root, out = corpus(tmp_path / "root", num_takes=150), tmp_path / "out"
    paths = add_videos(root, [take(number) for number in range(150)], video)
    log = out / "video_check.jsonl"

    def lines() -> list[str]:
        return log.read_text().splitlines() if log.exists() else []

    def stop(number: signal.Signals) -> tuple[int, str]:
        more = len(lines()) + 10
        return stop_when(start(root, out, "--check-videos", "--workers", "1"), lambda: len(lines()) >= more, number)

    assert stop(signal.SIGINT) == (130, INTERRUPTED_MESSAGE)
    assert [path.name for path in out.iterdir()] == ["video_check.jsonl"]
    assert stop(signal.SIGKILL) == (-signal.SIGKILL, "")
    finished = lines()
    assert 20 <= len(finished) < len(paths)
    with log.open("a") as stream:
        stream.write('{"path": "takes/cmu')  # what a kill in the middle of a line leaves
    assert run(root, out, "--check-videos") == 0
    assert lines()[: len(finished)] == finished
    assert sorted(root / json.loads(line)["path"] for line in lines()) == sorted(paths)  # no video was probed twice


def test_a_repaired_video_is_probed_again(tmp_path: Path, video: Path) -> None:
    log = tmp_path / "log.jsonl"
    (tmp_path / "a.mp4").write_text("broken")

    def states() -> list[str]:
        found = check_videos(tmp_path, ["a.mp4", "b.mp4"], log, num_workers=2)
        return [state.state for state in found.values()]

    assert states() == ["unreadable", "missing"]
    (tmp_path / "a.mp4").write_bytes(video.read_bytes())
    (tmp_path / "b.mp4").write_bytes(video.read_bytes())
    assert states() == ["readable", "readable"]
    (tmp_path / "b.mp4").unlink()
    assert states() == ["readable", "missing"]
    log.write_text('{"other": 1}\n')
    with pytest.raises(DataError, match="delete it to check all videos again"):
        states()
