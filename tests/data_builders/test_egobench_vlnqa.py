"""VLN-QA: the answer is found among the candidates, under either layout, in files of any length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_builders.egobench.options import EgoBenchOptions
from data_builders.egobench.vlnqa import SOURCE, main
from data_builders.source import build_source
from eval.questions import read_questions
from exo2ego.errors import DataError
from exo2ego.storage import read_jsonl
from tests.data_builders.raw_vlnqa import row, write_vlnqa

FILE = "json/egocentric_navigation.json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_vlnqa(tmp_path / "raw")
    return tmp_path / "raw"


def built(root: Path, **options: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    out = root.parent / "out"
    summary = build_source(SOURCE, EgoBenchOptions(root=root, out=out, **options))
    return summary, list(read_jsonl(out / "vlnqa.jsonl"))


def test_a_question_as_it_is_written(root: Path) -> None:
    summary, rows = built(root)
    assert rows[0] == {
        "id": "vlnqa/a_1",
        "task": "vlnqa",
        "source": "vlnqa",
        "split": "test",
        "video": "video/vlnqa/a_1.mp4",
        "start": None,
        "end": None,
        "frames": None,
        "question": row("")["question"],
        "options": ["stop.", "move forward.", "turn left and move forward.", "turn right and move forward."],
        "answer_index": 2,
        "answer_text": "Turn left and move forward",
        "observation": None,
        "frame_rate": None,
        "meta": {},
        "version": 1,
    }
    assert [one["id"] for one in rows] == ["vlnqa/a_1", "vlnqa/b_2", "vlnqa/a_1#2", "vlnqa/c_3"]
    assert [one["answer_index"] for one in rows] == [2, 0, 2, 2]
    assert rows[3]["meta"] == {"same_as_truth": [3]}
    assert summary["noted"] == {"further question about the same video": 1, "two options are the same text": 1}
    assert summary["facts"]["vlnqa_videos"] == 3


def test_a_row_that_is_left_out_is_not_noted_as_kept(root: Path) -> None:
    (root / "video" / "vlnqa" / "c_3.mp4").unlink()
    summary, rows = built(root, missing_videos="drop")
    assert (len(rows), summary["noted"]) == (3, {"further question about the same video": 1})


@pytest.mark.parametrize("name", ["egocentric_navigation.json", "vlnqa.json"])
@pytest.mark.parametrize("folder", ["vlnqa", "vlnqa/vlnqa", "video/vlnqa/vlnqa", "."])
def test_other_layouts(root: Path, name: str, folder: str) -> None:
    (root / FILE).rename(root / name)
    (root / "video" / "vlnqa").rename(root / "found")
    (root / folder).parent.mkdir(parents=True, exist_ok=True)
    if folder == ".":
        for video in (root / "found").iterdir():
            video.rename(root / video.name)
    else:
        (root / "found").rename(root / folder)
    summary, rows = built(root)
    assert rows[0]["video"] == str(Path(folder) / "a_1.mp4")
    assert "missing_video" not in summary["noted"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([row("a.mp4"), row("b.mp4", answer="Fly")], "row 2: the answer 'Fly' is none of the candidates"),
        ([row("../../a.mp4")], "row 1: video: .*not a plain path"),
        ([row("/a.mp4")], "row 1: video: .*not a plain path"),
        ([row("a.mp4", candidates=["Stop"], answer="Stop")], "row 1: candidates: .*at least 2"),
        ([row("a.mp4", candidates=[str(number) for number in range(11)])], "row 1: candidates: .*at most 10"),
        ([{"q_uid": "a"}], "row 1: video: Field required"),
        ("text", "expected '\\['"),
    ],
)
def test_faults_name_file_and_row(root: Path, value: Any, message: str) -> None:
    (root / FILE).write_text(json.dumps(value))
    with pytest.raises(DataError, match=message) as caught:
        built(root)
    assert str(root / FILE) in str(caught.value)
    assert not list((root.parent / "out").glob("*.json*"))


def test_the_command_and_the_evaluator(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = root.parent / "out"
    assert main(["--root", str(root), "--out", str(out), "--option-style", "raw"]) == 0
    assert "vlnqa: 4 rows, the paper has 200 (Table 2): -196" in capsys.readouterr().out
    assert read_questions([out / "vlnqa.jsonl"])[1].options[0] == "Stop"
