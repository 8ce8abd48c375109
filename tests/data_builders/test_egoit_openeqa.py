"""OpenEQA: folders of frames as videos, further answers, and the traps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from data_builders.egoit.openeqa import SOURCE, main
from exo2ego.data.video import read_frames
from exo2ego.errors import DataError
from tests.data_builders.egoit_builds import build, load_with_datasets
from tests.data_builders.raw_openeqa import HM3D, ROWS, SCANNET, write_openeqa
from tests.shared_data import shared_path


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_openeqa(tmp_path / "raw")
    return tmp_path / "raw"


def test_questions_about_folders_of_frames(raw: Path) -> None:
    rows, summary = build(SOURCE, raw)
    assert [(row.conversation_id, row.video, row.question, row.answer) for row in rows] == [
        (f"openeqa/{ROWS[0]['question_id']}", f"data/frames/{HM3D}", "is the door open or closed?", "open"),
        (f"openeqa/{ROWS[1]['question_id']}", f"data/frames/{HM3D}", "Is the door open or closed?", "open"),
        (f"openeqa/{ROWS[2]['question_id']}", f"data/frames/{SCANNET}", "Where is the clock?", "On the wall"),
    ]
    assert {(row.kind, row.start_s, row.end_s, row.frame_rate) for row in rows} == {("open_qa", None, None, None)}
    assert summary["noted"] == {"missing_video": 2, "same_question_of_the_same_episode": 1}


def test_a_row_that_is_left_out_is_not_noted_as_kept(raw: Path) -> None:
    rows, summary = build(SOURCE, raw, missing_videos="drop")
    assert (len(rows), summary["dropped"], summary["noted"]) == (1, {"missing_video": 2}, {})


def test_further_answers_that_say_something_else(raw: Path) -> None:
    rows, _ = build(SOURCE, raw, extra_answers=True)
    assert [(row.conversation_id[-2:], row.answer) for row in rows[2:]] == [
        ("03", "On the wall"),
        ("/1", "Above the desk"),
        ("/2", "near the window"),
    ]
    assert len({(row.question, row.video) for row in rows[2:]}) == 1


@pytest.mark.parametrize(
    "layout",
    [
        "data/frames/{}",
        "frames/{}",
        "{}",
        "viewer/static/videos/{}-0.mp4",
        "videos/{}-0.mp4",
        "{}-0.mp4",
    ],
)
def test_episodes_are_found_in_any_layout(raw: Path, tmp_path: Path, layout: str) -> None:
    media = tmp_path / "media"
    episode = media / layout.format(HM3D)
    episode.parent.mkdir(parents=True)
    if episode.suffix:
        episode.touch()
    else:
        episode.mkdir()
    rows, _ = build(SOURCE, raw, videos=media, missing_videos="drop")
    assert {row.video for row in rows} == {layout.format(HM3D)}


def test_the_training_reads_such_a_folder_without_its_depth_maps(raw: Path) -> None:
    folder = raw / "data" / "frames" / HM3D
    folder.mkdir(parents=True)
    for number, level in enumerate((10, 20, 30)):
        Image.new("RGB", (4, 3), (level, level, level)).save(folder / f"{number:05d}-rgb.png")
        Image.new("I;16", (4, 3), 60_000).save(folder / f"{number:05d}-depth.png")
        (folder / f"{number:05d}.txt").write_text("1 0 0 0")
    row = build(SOURCE, raw)[0][0]
    frames = read_frames(raw / row.video, row.start_s, row.end_s, 3, frame_rate=row.frame_rate, within=raw)
    assert frames[:, 0, 0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"episode_history": "hm3d-v0/../../../etc"},
            "row 2: episode_history: .* is not a plain path inside the media",
        ),
        ({"episode_history": f"hm3d-v0/{'a' * 201}"}, "row 2: episode_history: .* is too long for a path"),
        ({"episode_history": "a/" * 600 + "b"}, "row 2: episode_history: .* is too long for a path"),
        ({"episode_history": "/etc"}, "row 2: episode_history: "),
        ({"question_id": ROWS[0]["question_id"]}, "row 2: the id '.*1' is given twice in openeqa"),
        ({"answer": "  "}, "row 2: answer: is empty"),
        ({"extra_answers": "one"}, "row 2: extra_answers: "),
        ({"question": None}, "row 2: question: "),
    ],
)
def test_faults_are_named(raw: Path, changes: dict[str, object], message: str) -> None:
    (raw / "data" / "open-eqa-v0.json").write_text(json.dumps([ROWS[0], ROWS[1] | changes]))
    with pytest.raises(DataError, match=message):
        build(SOURCE, raw)
    assert not list((raw.parent / "out").iterdir())


def test_the_command(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(raw), "--out", str(tmp_path / "out"), "--missing-videos", "stop"]) == DataError.exit_code
    assert f"row 1: the video {raw}/data/frames/{HM3D} is not there" in capsys.readouterr().err.replace("\n", "")
    assert main(["--root", str(raw), "--out", str(tmp_path / "out"), "--extra-answers"]) == 0
    assert "openeqa: 5 rows" in capsys.readouterr().out


def test_the_real_file(tmp_path: Path) -> None:
    root = shared_path("data/real/open_eqa")
    rows, summary = build(SOURCE, root, out=tmp_path / "out")
    assert len(rows) == 1636
    assert summary["noted"]["same_question_of_the_same_episode"] == 1
    assert summary["paper"][0]["agrees"]
    episodes = {row.video for row in rows}
    assert len(episodes) == 152
    assert sum("scannet-v0" in row.video for row in rows) == 1079
    assert len({row.instruction for row in rows}) == 10
    table = load_with_datasets(tmp_path / "out" / "openeqa.jsonl", tmp_path / "cache")
    assert (len(table), table[0]["answer"]) == (1636, "Air conditioning unit")
    more, _ = build(SOURCE, root, out=tmp_path / "more", extra_answers=True)
    assert len(more) == 2615  # 1,636 and 979 of the 1,052 further answers
    assert [row for row in more if row.conversation_id.count("/") == 1] == rows
