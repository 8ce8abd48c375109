"""Clips cut for other frameworks: nothing but the span, all of it, at its own times; faults; the command."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eval import clip_files, export_vlmevalkit
from eval.clip_files import FAILURES_FILE, clip_file, clip_path, cut_all, unreadable_videos
from exo2ego.data.spans import Span
from exo2ego.data.video import read_timed_frames
from exo2ego.errors import ConfigError, VideoError
from exo2ego.storage import read_jsonl, write_jsonl
from tests.eval.evaluation_setup import question_row
from tests.eval.lmms_eval_setup import coloured, write_pictures, write_video

STEP = 10
"""Brightness from one frame to the next; what encoding loses of a mean is below 2."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "ego.mp4", seed=0)
    write_pictures(folder / "pictures")
    return folder


def shown(path: Path, count: int) -> tuple[list[int], list[float]]:
    """Returns the numbers of the source's frames that a clip shows, and their times in it."""
    frames, times_s = read_timed_frames(path, None, None, count)
    return [round(frame.mean() / STEP) - 1 for frame in frames], times_s


@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_clip_shows_every_frame_of_its_span_and_no_other(root: Path, tmp_path: Path, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, 19))
    last = data.draw(st.integers(first, 19))
    video, frame_rate = data.draw(st.sampled_from([("ego.mp4", None), ("pictures", 10.0)]))
    path = clip_file(Span(video, first / 10, last / 10, frame_rate), root, tmp_path)
    wanted = [*range(first, last + 1)] if last > first else [first, first]
    numbers, times_s = shown(path, len(wanted))
    assert numbers == wanted
    assert times_s == pytest.approx([place / 10 for place in range(len(wanted))], abs=1e-4)


@pytest.mark.parametrize(
    ("span", "wanted"),
    [
        (Span("ego.mp4", 0.5, 0.9, None, 0.9), [5, 6, 7, 8, 9]),
        (Span("ego.mp4", 0.5, 0.9, None, 1.5), [5, 6, 7, 8, 9, 15]),
        (Span("ego.mp4", 1.0, 1.2, None, 0.3), [10, 11, 12, 3]),
        (Span("ego.mp4", 0.7, 0.7, None, 0.7), [7, 7]),
        (Span("ego.mp4", 1.7, None), [17, 18, 19]),
        (Span("pictures", None, 0.2, 10.0), [0, 1, 2]),
    ],
)
def test_what_is_observed_stands_last(root: Path, tmp_path: Path, span: Span, wanted: list[int]) -> None:
    assert shown(clip_file(span, root, tmp_path), len(wanted))[0] == wanted


def test_pictures_are_those_of_the_video_up_to_the_encoding(root: Path, tmp_path: Path) -> None:
    frames, _ = read_timed_frames(clip_file(Span("pictures", 0.2, 0.6, 10.0), root, tmp_path), None, None, 5)
    difference = numpy.abs(frames.astype(int) - coloured(seed=7)[2:7])
    assert difference.mean() < 6  # of noise of ±8 in every colour, which 4:2:0 halves


def test_a_whole_file_is_shown_as_it_is_and_nothing_is_cut_twice(root: Path, tmp_path: Path) -> None:
    assert clip_file(Span("ego.mp4", None, None), root, tmp_path) == (root / "ego.mp4").resolve()
    span = Span("ego.mp4", 0.5, 0.9)
    before = clip_file(span, root, tmp_path).stat()
    assert clip_file(span, root, tmp_path).stat().st_mtime_ns == before.st_mtime_ns
    assert [path.name for path in tmp_path.iterdir()] == [f"{span.key}.mp4"]


def test_an_odd_edge_loses_one_row(tmp_path: Path) -> None:
    write_pictures(tmp_path / "odd", size=(49, 65))
    frames, _ = read_timed_frames(clip_file(Span("odd", 0.0, 0.4, 10.0), tmp_path, tmp_path), None, None, 3)
    assert frames.shape[1:3] == (48, 64)


def test_what_cannot_be_read_leaves_no_clip_and_is_listed(root: Path, tmp_path: Path) -> None:
    whole = (root / "ego.mp4").read_bytes()
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "videos" / "good.mp4").write_bytes(whole)
    spans = [Span(name, 0.5, 1.5) for name in ("cut.mp4", "good.mp4", "missing.mp4", "../videos/../../etc/passwd")]
    failed = cut_all(spans, tmp_path / "videos", tmp_path / "clips", num_workers=2)
    assert {uncut.span.video for uncut in failed} == {span.video for span in spans} - {"good.mp4"}
    assert set(unreadable_videos(tmp_path / "clips")) == {uncut.span.key for uncut in failed}
    assert {path.name for path in (tmp_path / "clips").iterdir()} == {clip_path(spans[1], Path()).name, FAILURES_FILE}
    with pytest.raises(VideoError, match="cannot be found"):
        clip_file(spans[2], tmp_path / "videos", tmp_path / "clips")


def test_the_command_cuts_what_tables_need_and_fails_where_too_much_is_unreadable(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [question_row(number, video="ego.mp4", start=0.1 * number) for number in range(3)]
    write_jsonl(tmp_path / "questions.jsonl", [*rows, question_row(9, video="ego.mp4", start=None, end=None)])
    arguments = [f"data.root={root}", f"data.questions={tmp_path / 'questions.jsonl'}", f"clips={tmp_path / 'clips'}"]
    assert clip_files.main(arguments) == 0
    assert "3 clips; 1 videos are shown whole" in capsys.readouterr().out
    assert (tmp_path / "clips" / "clips.json").exists()
    write_jsonl(tmp_path / "questions.jsonl", [*rows, question_row(9, video="gone.mp4")])
    assert clip_files.main(arguments) == 3
    assert "1 of 4 clips cannot be cut" in capsys.readouterr().err
    assert [row["video"] for row in read_jsonl(tmp_path / "clips" / FAILURES_FILE)] == ["gone.mp4"]
    assert clip_files.main([*arguments, "max_failure_rate=0.5"]) == 0


@pytest.mark.parametrize("command", [clip_files, export_vlmevalkit])
def test_a_dry_run_writes_nothing(
    root: Path, tmp_path: Path, command: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "questions.jsonl", [question_row(number, video="ego.mp4") for number in range(2)])
    folder = tmp_path / "made"
    key = "clips" if command is clip_files else "out"
    arguments = [f"data.root={root}", f"data.questions={tmp_path / 'questions.jsonl'}", f"{key}={folder}"]
    assert command.main([*arguments, "--dry-run"]) == 0
    assert not folder.exists()
    said = capsys.readouterr().out
    assert ("would cut 1 clips; 0 are there" if key == "clips" else "16 pictures would be written") in said
    assert command.main(arguments) == 0
    capsys.readouterr()
    assert command.main([*arguments, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert ("would cut 0 clips; 1 are there" if key == "clips" else "0 pictures would be written") in said


@pytest.mark.parametrize("command", [clip_files, export_vlmevalkit])
def test_what_would_be_ignored_is_refused(root: Path, command: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([f"data.root={root}", "data.clip_store=store", "out=o"]) == ConfigError.exit_code
    assert "clip_store" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main([f"data.root={root}", "--resume", "auto"])
    assert "--resume" in capsys.readouterr().err
