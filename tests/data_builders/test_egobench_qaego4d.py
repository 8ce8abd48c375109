"""QAEgo4D: closed questions in a seeded order, open ones from either form, the window of the answer in meta."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data_builders.egobench.qaego4d import SOURCE, QAEgo4DOptions, main
from data_builders.source import build_source
from eval.questions import read_questions
from exo2ego.errors import DataError
from exo2ego.storage import read_jsonl
from tests.data_builders.raw_qaego4d import ANNOTATION, CLIP, VIDEO, row, write_original_qaego4d, write_qaego4d

CLOSE = "data/unified/annotations.QaEgo4D_test_close.json"
OPEN = "data/unified/annotations.QaEgo4D_test.json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_qaego4d(tmp_path / "raw")
    return tmp_path / "raw"


def built(root: Path, **options: Any) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    out = root.parent / "out"
    summary = build_source(SOURCE, QAEgo4DOptions(root=root, out=out, **options))
    return summary, {table: list(read_jsonl(out / f"{table}.jsonl")) for table in summary["tables"]}


def rewrite(root: Path, name: str, value: Any) -> None:
    (root / name).write_text(json.dumps(value))


def test_a_closed_question_as_it_is_written(root: Path) -> None:
    _, tables = built(root, option_style="raw")
    first = tables["qaego4d_close"][0]
    assert sorted(first.pop("options")) == ["in the drawer", "left of the sink", "on the table", "right of the stove"]
    assert first.pop("answer_index") in range(4)
    assert first == {
        "id": f"qaego4d/close/{ANNOTATION}_0",
        "task": "qaego4d_close",
        "source": "qaego4d",
        "split": "test",
        "video": f"v1/clips/{CLIP}.mp4",
        "start": None,
        "end": None,
        "frames": None,
        "question": "Where did I put plate number 0?",
        "answer_text": "on the table",
        "observation": None,
        "frame_rate": None,
        "meta": {"evidence_start_s": 137.35, "evidence_end_s": 143.0, "clip_uid": CLIP, "video_uid": VIDEO},
        "version": 1,
    }


def test_an_open_question_has_a_text_and_no_options(root: Path) -> None:
    _, tables = built(root)
    assert len(tables["qaego4d_open"]) == 9
    assert {(len(one["options"]), one["answer_index"], one["answer_text"]) for one in tables["qaego4d_open"]} == {
        (0, None, "on the table")
    }


def test_odd_rows_are_counted(root: Path) -> None:
    summary, tables = built(root)
    assert summary["dropped"] == {"no question, no answer or an empty option": 2}
    assert summary["noted"] == {"the window of the answer has no length": 1, "two options are the same text": 1}
    assert [one["id"][-1] for one in tables["qaego4d_close"]] == list("0124567")
    repeated = tables["qaego4d_close"][2]
    assert [repeated["options"][index] for index in repeated["meta"]["same_as_truth"]] == ["on the table."]
    assert repeated["answer_index"] not in repeated["meta"]["same_as_truth"]
    assert {key: value for key, value in summary["facts"].items() if "quality" not in key} == {
        "qaego4d_close_videos": 1,
        "qaego4d_open_videos": 1,
    }


def test_wrong_answers_may_be_no_texts(root: Path) -> None:
    rewrite(root, CLOSE, [row(0, wrong_answers=[1, 2.5, True]), row(1, wrong_answers=[None, 3, 4])])
    summary, tables = built(root, option_style="raw")
    assert [sorted(one["options"]) for one in tables["qaego4d_close"]] == [["1", "2.5", "True", "on the table"]]
    assert summary["dropped"]["no question, no answer or an empty option"] == 2, "the second row, and an open one"


def test_the_order_depends_on_seed_and_sample_alone(root: Path) -> None:
    rewrite(root, CLOSE, [row(number) for number in range(400)])
    first = {one["id"]: one for one in built(root)[1]["qaego4d_close"]}
    rewrite(root, CLOSE, [row(number) for number in reversed(range(200, 400))])
    again = {one["id"]: one for one in built(root)[1]["qaego4d_close"]}
    assert all(first[name] == one for name, one in again.items())
    other = {one["id"]: one for one in built(root, seed=1)[1]["qaego4d_close"]}
    assert 20 < sum(first[name]["answer_index"] == one["answer_index"] for name, one in other.items()) < 90
    places = Counter(one["answer_index"] for one in first.values())
    assert min(places.values()) > 70
    assert all(one["options"][one["answer_index"]] == "on the table." for one in first.values())


@pytest.mark.parametrize("gone", [CLOSE, OPEN])
def test_either_table_can_be_built_alone(root: Path, gone: str) -> None:
    (root / gone).unlink()
    summary, tables = built(root)
    absent = "qaego4d_close" if gone == CLOSE else "qaego4d_open"
    assert set(tables) == set(SOURCE.tables) - {absent}
    assert summary["facts"][absent] == "not built: its file is not there"
    assert [compared["table"] for compared in summary["paper"]] == list(tables)


def test_the_original_joins_its_answers_with_ego4d(tmp_path: Path) -> None:
    write_original_qaego4d(tmp_path / "raw")
    summary, tables = built(tmp_path / "raw")
    (one,) = tables["qaego4d_open"]
    assert (one["id"], one["question"], one["answer_text"], one["video"]) == (
        f"qaego4d/open/{ANNOTATION}_0",
        "Where did I put it?",
        "in the drawer",
        f"v1/clips/{CLIP}.mp4",
    )
    assert one["meta"] == {"evidence_start_s": 1.5, "evidence_end_s": 2.5, "clip_uid": CLIP, "video_uid": VIDEO}
    assert summary["dropped"] == {"answer to a query that nlq_val.json does not have": 2}
    assert set(summary["provenance"]["inputs"]) == {"answers.json", "nlq_val.json"}


def test_ego4ds_file_may_lie_elsewhere(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "raw", tmp_path / "ego4d.json"
    write_original_qaego4d(root)
    (root / "nlq_val.json").rename(elsewhere)
    with pytest.raises(DataError, match=r"nlq_val.json \(v1\) of QAEgo4D not found"):
        built(root)
    summary, _ = built(root, nlq=elsewhere)
    assert summary["tables"]["qaego4d_open"]["rows"] == 1
    assert str(elsewhere) in summary["provenance"]["inputs"]


def test_the_originals_own_tool_writes_the_same_question(tmp_path: Path) -> None:
    write_original_qaego4d(tmp_path / "one" / "raw")
    joined = built(tmp_path / "one" / "raw")[1]["qaego4d_open"]
    made = row(0, question="Where did I put it?", answer="in the drawer", moment_start_frame=45, moment_end_frame=75)
    for name in (
        "wrong_answers",
        "video_uid",
        *(key for key in made if key.startswith("video_") and key != "video_id"),
    ):
        made.pop(name, None)
    (tmp_path / "two" / "raw").mkdir(parents=True)
    rewrite(tmp_path / "two" / "raw", "annotations.test.json", [made])
    (of_tool,) = built(tmp_path / "two" / "raw")[1]["qaego4d_open"]
    del joined[0]["meta"]["video_uid"]
    assert of_tool == joined[0]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (CLOSE, [row(0, wrong_answers=["a", "b"])], "row 1: wrong_answers: .*at least 3"),
        (CLOSE, [row(0), {"question": "?"}], "row 2: sample_id: Field required"),
        (CLOSE, [row(0), row(0)], "would be given to two records"),
        (CLOSE, [row(0, video_id="../x")], "row 1: video_id: .*cannot name a file"),
        (CLOSE, [row(0, moment_start_frame=None)], "row 1: moment_start_frame: "),
        (OPEN, [row(0, question=7)], "row 1: question: "),
        (OPEN, {}, "expected '\\['"),
    ],
)
def test_faults_name_file_and_row(root: Path, name: str, value: Any, message: str) -> None:
    rewrite(root, name, value)
    with pytest.raises(DataError, match=message):
        built(root)
    assert not list((root.parent / "out").glob("*.json*"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("answers.json", {"val": {}}, "answers has no `test`"),
        ("answers.json", {"test": {"a": 1}}, "entry 'a': .*string"),
        ("answers.json", {"test": {"a": "\ud800"}}, "entry 'a': .*lone surrogate"),
        (
            "nlq_val.json",
            {
                "videos": [
                    {
                        "video_uid": "v",
                        "clips": [
                            {
                                "clip_uid": "c",
                                "annotations": [{"annotation_uid": "a", "language_queries": [{"query": "q"}]}],
                            }
                        ],
                    }
                ]
            },
            "query a_0: clip_start_sec or clip_end_sec is not there",
        ),
        ("nlq_val.json", {"version": 1}, "nlq_val.json: .*videos: Field required"),
        ("nlq_val.json", {"videos": [{"video_uid": "v"}]}, "nlq_val.json: .*videos.0.clips: Field required"),
    ],
)
def test_faults_of_the_original(tmp_path: Path, name: str, value: Any, message: str) -> None:
    write_original_qaego4d(tmp_path / "raw")
    rewrite(tmp_path / "raw", name, value)
    with pytest.raises(DataError, match=message):
        built(tmp_path / "raw")


def test_another_dataset_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "questions.json").write_text("[]")
    with pytest.raises(DataError, match=r"test questions of QAEgo4D not found; expected .*holds questions.json"):
        built(tmp_path / "raw")


def test_the_command_and_the_evaluator(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = root.parent / "out"
    assert main(["--root", str(root), "--out", str(out), "--seed", "3"]) == 0
    assert "qaego4d_close: 7 rows, the paper has 1,854 (Table 2): -1,847; " in capsys.readouterr().out
    assert len(read_questions([out / "qaego4d_close.jsonl"])) == 7
    spoken = read_questions([out / "qaego4d_open.jsonl"])
    assert spoken
    assert all(not question.options and question.answer_text for question in spoken)
