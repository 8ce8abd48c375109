"""EgoSchema: labels only where they are public, options in the order of the source, clips as files or spans."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data_builders.egobench.egoschema import SOURCE, EgoSchemaOptions, main
from data_builders.source import build_source
from eval.questions import read_questions
from exo2ego.errors import DataError
from exo2ego.storage import read_jsonl
from tests.data_builders.raw_egoschema import EGO4D, UIDS, question, write_egoschema
from tests.shared_data import shared_path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_egoschema(tmp_path / "raw")
    return tmp_path / "raw"


def built(root: Path, **options: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    out = root.parent / "out"
    summary = build_source(SOURCE, EgoSchemaOptions(root=root, out=out, **options))
    return summary, list(read_jsonl(out / "egoschema.jsonl"))


def rewrite(root: Path, name: str, value: Any) -> None:
    (root / name).write_text(json.dumps(value))


def test_a_question_as_it_is_written(root: Path) -> None:
    _, rows = built(root)
    assert rows[0] == {
        "id": f"egoschema/{UIDS[0]}",
        "task": "egoschema",
        "source": "egoschema",
        "split": "test",
        "video": f"videos/{UIDS[0]}.mp4",
        "start": None,
        "end": None,
        "frames": None,
        "question": "What does c do, overall?",
        "options": [f"c mixes bowl number {number}." for number in range(5)],
        "answer_index": 2,
        "answer_text": "C mixes bowl number 2.",
        "observation": None,
        "frame_rate": None,
        "meta": {"video_uid": EGO4D, "recording_start_s": 0.0, "recording_end_s": 180.0},
        "version": 1,
    }
    assert [row["answer_index"] for row in rows] == [2, None, None, 1]
    assert [row["answer_text"] for row in rows[1:3]] == [None, None]


def test_the_order_of_the_options_is_that_of_a_submission(root: Path) -> None:
    first = built(root, seed=0, option_style="raw")[1]
    second = built(root, seed=7, option_style="raw")[1]
    assert first == second
    assert first[1]["options"] == [question(UIDS[1])[f"option {number}"] for number in range(5)]


def test_oddities_are_told(root: Path) -> None:
    rewrite(root, "subset_answers.json", {UIDS[0]: 0, UIDS[3]: 1, "gone": 4})
    summary, rows = built(root)
    assert summary["noted"] == {
        "missing_video": 1,
        "two options are the same text": 1,
    }
    assert rows[3]["meta"]["same_as_truth"] == [4]
    assert "cannot tell" in summary["facts"].pop("quality of egoschema")
    assert summary["facts"] == {
        "egoschema_videos": 4,
        "egoschema_mean_clip_seconds": 180.0,
        "egoschema_mean_clip_seconds_in_paper": 180.0,
        "egoschema_public_labels": 2,
        "egoschema_public_labels_without_question": 1,
        "egoschema_public_labels_by_option": [1, 1, 0, 0, 0],
    }
    assert set(summary["provenance"]["inputs"]) == {"questions.json", "subset_answers.json", "uid_to_ego4d.json"}


def test_questions_alone_are_enough(root: Path) -> None:
    (root / "subset_answers.json").unlink()
    (root / "uid_to_ego4d.json").unlink()
    (root / "videos").rename(root / "good_clips_git")
    summary, rows = built(root)
    assert [row["answer_index"] for row in rows] == [None] * 4
    assert rows[0]["video"] == f"good_clips_git/{UIDS[0]}.mp4"
    assert rows[0]["meta"] == {}
    assert "no question has its label" in summary["facts"]["egoschema_labels"]


def test_clips_can_be_spans_of_ego4d(root: Path) -> None:
    ego4d = root.parent / "media" / "ego4d"
    (ego4d / "v2" / "full_scale").mkdir(parents=True)
    (ego4d / "v2" / "full_scale" / f"{EGO4D}.mp4").touch()
    places = json.loads((root / "uid_to_ego4d.json").read_text())
    del places[UIDS[2]]
    rewrite(root, "uid_to_ego4d.json", places)
    summary, rows = built(root, from_ego4d=True, videos=ego4d, media_root=ego4d.parent)
    assert {row["video"] for row in rows} == {f"ego4d/v2/full_scale/{EGO4D}.mp4"}
    assert [(row["start"], row["end"]) for row in rows] == [(0, 180), (180, 360), (540, 720)]
    assert summary["dropped"] == {"clip without a place in Ego4D": 1}
    (root / "uid_to_ego4d.json").unlink()
    with pytest.raises(DataError, match="places of the clips in Ego4D of EgoSchema not found"):
        built(root, from_ego4d=True, videos=ego4d)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "questions.json",
            [{key: "x" for key in question("a") if key != "question"}],
            "row 1: question: Field required",
        ),
        ("questions.json", [question("../../etc")], "row 1: q_uid: .*cannot name a file"),
        ("questions.json", [question("a"), question("a")], "id 'egoschema/a' would be given to two records"),
        ("questions.json", {"a": 1}, "is not valid JSON: line 1: expected '\\['"),
        ("questions.json", [question("a", text=" ")], "row 1: question: is empty"),
        ("questions.json", [question("a") | {"option 4": None}], "row 1: option 4: .*string"),
        ("subset_answers.json", {"a": 5}, "entry 'a': expected a label from 0 to 4, got 5"),
        ("subset_answers.json", {"a": True}, "entry 'a': expected a label from 0 to 4, got True"),
        ("subset_answers.json", {"a": "1"}, "entry 'a': expected a label from 0 to 4, got '1'"),
        ("uid_to_ego4d.json", {"a": {"video_uid": "v", "starting_sec": 9, "ending_sec": 9}}, "before it starts"),
        ("uid_to_ego4d.json", {"a": {"video_uid": "../v", "starting_sec": 0, "ending_sec": 9}}, "cannot name a file"),
    ],
)
def test_faults_name_file_and_row(root: Path, name: str, value: Any, message: str) -> None:
    rewrite(root, name, value)
    with pytest.raises(DataError, match=message) as caught:
        built(root)
    if "would be given" not in message:
        assert str(root / name) in str(caught.value)
    assert not list((root.parent / "out").glob("*.json*"))


def test_the_command(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = root.parent / "out"
    assert main(["--root", str(root), "--out", str(out)]) == 0
    assert "egoschema: 4 rows, the paper has 5,031 (Table 2)" in capsys.readouterr().out
    assert [one.answer_index for one in read_questions([out / "egoschema.jsonl"])] == [2, None, None, 1]
    (root / "questions.json").write_text('[{"q_uid": "a"')
    assert main(["--root", str(root), "--out", str(out)]) != 0
    assert "is not valid JSON: line 1" in capsys.readouterr().err


def test_real_labels_and_places(tmp_path: Path) -> None:
    real = shared_path("data/real/egoschema")
    root = tmp_path / "raw"
    root.mkdir()
    uids = json.loads((real / "uid_to_ego4d.json").read_text())
    for name in ("uid_to_ego4d.json", "subset_answers.json"):
        (root / name).write_bytes((real / name).read_bytes())
    rewrite(root, "questions.json", [question(uid) for uid in uids])  # the real texts of all 5,031 are not at hand
    summary, rows = built(root, from_ego4d=True)
    assert len(rows) == summary["paper"][0]["paper_rows"] == 5_031
    assert summary["paper"][0]["agrees"]
    labels = Counter(row["answer_index"] for row in rows)
    assert [labels[index] for index in range(5)] == [101, 108, 91, 83, 117]
    assert labels[None] == 5_031 - 500
    assert {row["end"] - row["start"] for row in rows} == {180.0}
    assert summary["facts"]["egoschema_videos"] == 1_981
    assert "public label of a question that is not there" not in summary["noted"]


def test_real_questions(tmp_path: Path) -> None:
    real = shared_path("data/real/egoschema")
    root = tmp_path / "raw"
    root.mkdir()
    sample = real / "questions_sample20_commit617b469.json"
    (root / "questions.json").write_bytes(sample.read_bytes())
    (root / "uid_to_ego4d.json").write_bytes((real / "uid_to_ego4d.json").read_bytes())
    _, rows = built(root, option_style="raw")
    texts = json.loads(sample.read_text())
    assert [row["id"] for row in rows] == [f"egoschema/{text['q_uid']}" for text in texts]
    assert [row["options"] for row in rows] == [
        [" ".join(text[f"option {number}"].split()) for number in range(5)] for text in texts
    ]
    assert all(row["meta"]["recording_end_s"] - row["meta"]["recording_start_s"] == 180 for row in rows)
