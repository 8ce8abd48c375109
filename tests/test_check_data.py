"""Checking records and videos: every fault is found once, counted, listed with its place, and decides the exit code."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from exo2ego.records import Record
from scripts import check_data
from scripts.check_records import RecordChecks
from scripts.record_files import Row, open_records
from tests.conftest import RunPython
from tests.data.generated_videos import cut, write_audio, write_video
from tests.record_examples import clip, conversation, prediction, question, write_pictures, write_records


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("media")
    for name in ("ego.mp4", "exo.mp4"):
        write_video(root / name, 60)
    cut(root / "ego.mp4", root / "cut.mp4", 0.6)
    write_audio(root / "sound.mp4")
    write_pictures(root / "pictures", (10, 20, 30), count=4)
    (root / "empty").mkdir()
    (root.parent / "outside.mp4").write_bytes((root / "ego.mp4").read_bytes())
    return root


def kinds(*records: Record) -> list[list[str]]:
    checks = RecordChecks()
    return [[finding.kind for finding in checks("file", Row(place, record))] for place, record in enumerate(records)]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (clip(), []),
        (clip(text="  "), ["empty_text"]),
        (clip(end_s=0.2), ["instant"]),
        (conversation(), []),
        (conversation(question="", instruction="Look."), []),
        (conversation(question=""), ["empty_text"]),
        (conversation(options=["cup", "plate"], answer="B"), []),
        (conversation(options=["cup", "plate"], answer="(b) plate"), []),
        (conversation(options=["cup", "plate"], answer="Plate."), []),
        (conversation(options=["cup", "plate"], answer="bowl"), ["answer_not_an_option"]),
        (conversation(options=["cup", "plate"], answer="C"), ["answer_not_an_option"]),
        (conversation(options=["cup"], answer="cup"), ["num_options"]),
        (question(), []),
        (question(options=["a", "", "c"], answer_text=None, answer_index=2, meta={}), ["empty_text"]),
        (question(options=["A cup.", "a  cup", "x"], answer_text=None, meta={}), ["repeated_option"]),
        (question(options=["x", "y", "X"], answer_text=None, meta={}), ["wrong_option_repeated"]),
        (question(answer_text="wash the cup"), ["answer_text_differs"]),
        (question(answer_index=None, answer_text=None, meta={}), ["label_not_public"]),
        (question(options=[], answer_index=None, meta={}), []),
        (question(options=[], answer_index=None, answer_text=" ", meta={}), ["empty_text"]),
        (question(meta={"also_correct": [1]}), ["meta_misfit"]),
        (question(meta={"also_correct": [3]}), ["meta_misfit"]),
        (question(meta={"similarities": [1.0, 0.5]}), ["meta_misfit"]),
        (question(meta={"similarities": [1.0, 0.5, 7]}), ["meta_misfit"]),
        (prediction(), []),
        (prediction(option_scores=[0.1]), ["prediction_misfit"]),
        (prediction(predicted_index=3), ["prediction_misfit"]),
    ],
)
def test_what_is_wrong_with_one_record(record: Record, expected: list[str]) -> None:
    assert kinds(record) == [expected]


def test_duplicates_are_found_by_id_and_by_content() -> None:
    assert kinds(conversation(), conversation(answer="else")) == [[], ["duplicate_id"]]
    assert kinds(conversation(), conversation(id="other")) == [[], ["duplicate_content"]]
    assert kinds(conversation(), conversation(id="other", instruction="Look.")) == [[], ["duplicate_content"]]
    assert kinds(clip(), clip(clip_id="other", annotator="2")) == [[], ["duplicate_content"]]
    shuffled = question(id="other", options=["lift the red cup", "wash the cup", "raise the red cup"], answer_index=0)
    assert kinds(question(), shuffled.model_copy(update={"meta": {}})) == [[], ["duplicate_content"]]
    assert kinds(question(), question(id="other", task="else")) == [[], []]
    assert kinds(prediction(), prediction(mode="letter"), prediction()) == [[], [], ["duplicate_id"]]


def checked(
    tmp_path: Path, media: Path | None, records: Sequence[Record], *arguments: Any
) -> tuple[int, dict[str, Any]]:
    path = write_records(tmp_path / "records.jsonl", records)
    where = [] if media is None else ["--media-root", str(media)]
    out = tmp_path / "report.json"
    code = check_data.main([str(path), *where, "--out", str(out), *map(str, arguments)])
    return code, json.loads(out.read_text(encoding="utf-8"))


def test_every_fault_of_a_video_is_named(tmp_path: Path, media: Path) -> None:
    rows = [
        conversation(id="ok", start=0.5, end=2.4),  # the video lasts 2 s, the slack is 0.5 s
        conversation(id="absent", video="absent.mp4"),
        conversation(id="cut", video="cut.mp4"),
        conversation(id="sound", video="sound.mp4"),
        conversation(id="outside", video="../outside.mp4"),
        conversation(id="short", start=1, end=2.6),
        conversation(id="past", start=2.6, end=3),
        conversation(id="folder", video="pictures", frame_rate=2, start=0, end=2),
        conversation(id="long folder", video="pictures", frame_rate=4, start=0, end=2),
        conversation(id="no rate", video="pictures", start=0, end=1),
        conversation(id="whole folder", video="pictures"),
        conversation(id="empty", video="empty"),
    ]
    code, report = checked(tmp_path, media, rows)
    assert code == 3
    assert {kind: [row["record_id"] for row in told["rows"]] for kind, told in report["faults"].items()} == {
        "video:missing": ["absent"],
        "video:truncated": ["cut"],
        "video:no_video_stream": ["sound"],
        "video:forbidden_path": ["outside"],
        "video:too_short": ["short", "long folder"],
        "video:no_frame_in_span": ["past"],
        "video:no_frame_rate": ["no rate"],
        "video:no_frames": ["empty"],
    }
    assert report["videos"]["unique"] == 7
    assert [entry["video"] for entry in report["videos"]["unreadable"]] == [
        *("../outside.mp4", "absent.mp4", "cut.mp4", "empty", "sound.mp4")
    ]
    assert report["rows_with_faults"] == 9


def test_every_view_of_a_clip_is_checked(tmp_path: Path, media: Path) -> None:
    path = write_records(
        tmp_path / "clips.parquet", [clip(exo_videos=["exo.mp4", "gone.mp4"]), clip(clip_id="2", end_s=9)]
    )
    assert check_data.main([str(path), "--media-root", str(media), "--out", str(tmp_path / "r.json")]) == 3
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["faults"]["video:missing"]["count"] == 1
    assert report["faults"]["video:too_short"]["count"] == 2
    assert report["rows_with_faults"] == 2


def test_the_budget_decides_the_exit_code(tmp_path: Path, media: Path) -> None:
    rows = [conversation(id=str(number), start=number / 10, end=1) for number in range(4)]
    assert checked(tmp_path, media, rows)[0] == 0
    rows.append(conversation(id="absent", video="absent.mp4"))
    assert checked(tmp_path, media, rows)[0] == 3
    assert checked(tmp_path, media, rows, "--max-failure-rate", 0.2)[0] == 0
    assert checked(tmp_path, media, rows, "--max-failure-rate", 0.19)[0] == 3
    assert checked(tmp_path, None, rows)[0] == 0  # without --media-root no video is looked at


def test_probes_are_remembered_until_a_file_changes(
    tmp_path: Path, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import exo2ego.data.video

    root = tmp_path / "root"
    root.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (root / name).write_bytes((media / "ego.mp4").read_bytes())
    rows = [conversation(id=name, video=name) for name in ("a.mp4", "b.mp4", "absent.mp4")]
    probed: list[str] = []
    real = exo2ego.data.video.probe

    def recorded(path: Path, **more: Any) -> Any:
        probed.append(path.name)
        return real(path, **more)

    monkeypatch.setattr(exo2ego.data.video, "probe", recorded)

    assert checked(tmp_path, root, rows)[0] == 3
    assert sorted(probed) == ["a.mp4", "b.mp4"]
    probed.clear()
    first = (tmp_path / "report.videos.jsonl").read_bytes()
    os.utime(root / "b.mp4", (1, 1))
    (root / "absent.mp4").write_bytes((media / "ego.mp4").read_bytes())  # an absent one is looked for again
    with (tmp_path / "report.videos.jsonl").open("ab") as stream:
        stream.write(b'{"path": "half')  # as a kill leaves it
    code, report = checked(tmp_path, root, rows)
    assert (code, report["faults"]) == (0, {})
    assert sorted(probed) == ["absent.mp4", "b.mp4"]
    assert (tmp_path / "report.videos.jsonl").read_bytes().startswith(first)


def test_broken_rows_are_listed_with_their_line(tmp_path: Path) -> None:
    path = write_records(tmp_path / "rows.jsonl", [conversation()])
    with path.open("a") as stream:
        stream.write('{"id": "egtea/2", "source": "egtea"}\n{"id":\n')
    out = tmp_path / "report.json"
    assert check_data.main([str(path), "--out", str(out)]) == 3
    rows = json.loads(out.read_text())["faults"]["not_a_record"]["rows"]
    assert {(row["row"], row["record_id"]) for row in rows} == {(2, "egtea/2"), (3, "")}
    assert len(open_records(path)) == 3


def test_an_empty_file_is_a_fault(tmp_path: Path) -> None:
    code, report = checked(tmp_path, None, [])
    assert code == 3
    assert report["faults"]["empty_file"]["count"] == 1


def test_overlaps_are_reported_and_do_not_fail(tmp_path: Path) -> None:
    benchmark = write_records(tmp_path / "bench.json", [question(video="x/ego.mp4")])
    code, report = checked(tmp_path, None, [conversation(start=0.5, end=0.8)], "--against", benchmark)
    assert code == 0
    assert report["overlaps"]["affected"]["overlapping_span"] == ["ek100/1"]
    assert set(report["provenance"]["inputs"]) == {str(benchmark), str(tmp_path / "records.jsonl")}


def test_the_command_prints_what_it_found(tmp_path: Path, media: Path, run_python: RunPython) -> None:
    rows = [conversation(), conversation(id="egtea/2", video="absent.mp4"), conversation()]
    path = write_records(tmp_path / "egtea.jsonl", rows)
    benchmark = write_records(tmp_path / "bench.jsonl", [question(video="x/ego.mp4")])
    done = run_python(
        *("-m", "scripts.check_data", path, "--media-root", media, "--workers", 2, "--against", benchmark)
    )
    assert done.returncode == 3, done.stderr
    for line in (
        f"{path}: 3 conversations, 1 with faults",
        "videos: 2 different ones",
        "fault duplicate_id: 1 (an id is given twice)",
        "fault video:missing: 1 (the video cannot be read)",
        "row 2: egtea/2 absent.mp4",
        "1 videos are shared",
        "2 of 3 records have a fault",
    ):
        assert line in done.stdout, done.stdout
    cells = [cell.strip() for line in done.stdout.splitlines() if "ek100_mir" in line for cell in line.split("│")]
    assert cells[1:-1] == ["ek100_mir", "1", "1", "1", "0", "0", "0"]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.jsonl"], "No such file"),
        (["{rows}", "--workers", "0"], "--workers must be at least 1"),
        (["{rows}", "--media-root", "/nowhere"], "no such folder"),
        (["{rows}", "--against", "{predictions}"], "holds predictions"),
    ],
)
def test_a_wrong_command_line_is_one_message(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_records(tmp_path / "rows.jsonl", [conversation()])
    predictions = write_records(tmp_path / "predictions.jsonl", [prediction()])
    assert check_data.main([text.format(rows=rows, predictions=predictions) for text in arguments]) in (2, 3)
    told = " ".join(capsys.readouterr().err.split())
    assert message in told
    assert "Traceback" not in told
