"""EGTEA Gaze+: both readings, both action tables, and their traps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from data_builders.egoit.egtea import SOURCE, action_text, main
from exo2ego.errors import DataError
from exo2ego.records import Conversation
from tests.data_builders.egoit_builds import build, load_with_datasets
from tests.data_builders.raw_egtea import write_egtea
from tests.shared_data import shared_path


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_egtea(tmp_path / "raw")
    return tmp_path / "raw"


def annotation(raw: Path, name: str) -> Path:
    return raw / "action_annotation" / name


def test_raw_takes_every_action_out_of_its_session(raw: Path) -> None:
    rows, summary = build(SOURCE, raw)
    assert [(row.video, row.start_s, row.end_s, row.answer) for row in rows] == [
        ("P90-R01-PastaSalad.mp4", 1.0, 3.5, "Inspect/Read recipe"),
        ("P90-R01-PastaSalad.mp4", 4.0, 4.9, "Move Around paper towel, eating utensil"),
        ("OP91-R07-Pizza.mp4", 0.0, 0.733, "Close unknown"),
        ("OP91-R07-Pizza.mp4", 0.9, 1.9, "Move Around paper towel"),
        ("OP91-R07-Pizza.mp4", 2.0, 2.0, "Inspect/Read recipe"),
    ]
    assert rows[0].conversation_id == "egtea/P90-R01-PastaSalad-1000-3500"
    assert {row.question for row in rows} == {"What action am I performing?"}
    assert {row.kind for row in rows} == {"action_recognition"}
    assert summary["dropped"] == {"ends_before_it_starts": 1}
    assert summary["noted"] == {
        "missing_video": 5,
        "span_without_length": 1,
        "unknown_object": 1,
        "verb_and_nouns_disagree_with_action": 1,
    }
    assert summary["facts"] == {"rows_of_the_2_classes": 4}
    assert set(summary["provenance"]["inputs"]) == {
        "action_annotation/raw_annotations/action_labels.csv",
        "action_annotation/raw_annotations/cls_label_index.csv",
        "action_annotation/action_idx.txt",
        "instructions/egtea.json",
    }


def test_splits_take_the_trimmed_clips_whole(raw: Path) -> None:
    rows, summary = build(SOURCE, raw, mode="splits")
    clip = "P90-R01-PastaSalad-4000-4900-F000095-F000120"
    assert [row.answer for row in rows] == [
        "Inspect/Read recipe",
        "Move Around paper towel, eating utensil",
        "Inspect/Read recipe",
    ]
    assert (rows[1].conversation_id, rows[1].video) == (
        f"egtea/{clip}",
        f"cropped_clips/P90-R01-PastaSalad/{clip}.mp4",
    )
    assert (rows[1].start_s, rows[1].end_s) == (None, None)
    assert summary["noted"] == {"missing_video": 3, "verb_and_nouns_disagree_with_action": 1}


@pytest.mark.parametrize("gone", ["raw_annotations/cls_label_index.csv", "action_idx.txt"])
@pytest.mark.parametrize("mode", ["raw", "splits"])
def test_one_of_the_action_tables_is_enough(raw: Path, gone: str, mode: str) -> None:
    with_both, _ = build(SOURCE, raw, mode=mode)
    annotation(raw, gone).unlink()
    with_one, _ = build(SOURCE, raw, mode=mode)
    assert with_one == with_both


def test_raw_needs_neither_of_them(raw: Path) -> None:
    for name in ("raw_annotations/cls_label_index.csv", "action_idx.txt"):
        annotation(raw, name).unlink()
    rows, summary = build(SOURCE, raw)
    assert len(rows) == 5
    assert summary["facts"] == {}
    with pytest.raises(DataError, match=r"action_idx.txt of EGTEA Gaze\+ not found"):
        build(SOURCE, raw, mode="splits")


def test_action_tables_that_are_off_by_one_are_refused(raw: Path) -> None:
    path = annotation(raw, "action_idx.txt")
    path.write_text("Inspect/Read recipe 0\nMove Around paper_towel,eating_utensil 1\n")
    with pytest.raises(DataError, match=r"cls_label_index.csv: its actions, counted from 0, are not those of"):
        build(SOURCE, raw, mode="splits")


@pytest.mark.parametrize(
    ("mode", "layout"),
    [
        ("raw", "{session}.mp4"),
        ("raw", "videos/{session}.mp4"),
        ("splits", "cropped_clips/{session}/{clip}.mp4"),
        ("splits", "cropped_clips/cropped_clips/{session}/{clip}.mp4"),
        ("splits", "{clip}.mp4"),
    ],
)
def test_videos_are_found_in_any_layout(raw: Path, tmp_path: Path, mode: str, layout: str) -> None:
    session, clip = "P90-R01-PastaSalad", "P90-R01-PastaSalad-1000-3500-F000022-F000087"
    video = tmp_path / "media" / "egtea" / layout.format(session=session, clip=clip)
    video.parent.mkdir(parents=True)
    video.touch()
    rows, summary = build(SOURCE, raw, mode=mode, videos=tmp_path / "media" / "egtea", media_root=tmp_path / "media")
    assert rows[0].video == f"egtea/{layout.format(session=session, clip=clip)}"
    assert summary["noted"]["missing_video"] < len(rows)


@pytest.mark.parametrize(
    ("mode", "name", "before", "after", "message"),
    [
        ("raw", "raw_annotations/action_labels.csv", "; 1000; 3500", "; 1001; 3500", "line 2: clip .* not named for"),
        ("raw", "raw_annotations/action_labels.csv", "; 1000;", "; -1;", "line 2: Starting Time"),
        ("raw", "raw_annotations/action_labels.csv", "Clip Prefix (Unique); ", "", r"lacks the column Clip Prefix"),
        ("raw", "raw_annotations/action_labels.csv", "; recipe\n2", "\n2", r"line 2: .*expected 8 fields, got 7"),
        ("raw", "raw_annotations/cls_label_index.csv", "1; Move", "0; Move", "an action id is given twice"),
        (
            "splits",
            "train_split1.txt",
            "F000087 1 1 1",
            "F000087 3 1 1",
            r"line 1: there is no action 3; expected 1 to 2",
        ),
        (
            "splits",
            "train_split1.txt",
            "F000087 1 1 1",
            "F000087 1 1",
            r"line 1: expected a clip, an action, a verb and",
        ),
        ("splits", "train_split1.txt", "P90-R01", "../P90-R01", r"line 1: expected a clip"),
        (
            "splits",
            "verb_idx.txt",
            "Move Around 2",
            "Move Around 1",
            r"line 2: verb_idx.txt: expected a name and its own",
        ),
    ],
)
def test_faults_are_named(raw: Path, mode: str, name: str, before: str, after: str, message: str) -> None:
    path = annotation(raw, name)
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(DataError, match=message) as caught:
        build(SOURCE, raw, mode=mode)
    assert path.name in str(caught.value)
    assert not list((raw.parent / "out").iterdir())


def test_a_clip_that_is_there_twice_is_refused(raw: Path) -> None:
    path = annotation(raw, "test_split1.txt")
    path.write_text(annotation(raw, "train_split1.txt").read_text())
    with pytest.raises(DataError, match=r"test_split1.txt: line 1: the id 'P90-.*' is given twice in egtea"):
        build(SOURCE, raw, mode="splits")


def test_the_command(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(raw), "--out", str(tmp_path / "out"), "--mode", "splits"]) == 0
    assert "egtea: 3 rows, the paper has about 15,000 (Table 1): -14,997; 15K fits" in capsys.readouterr().out
    assert main(["--root", str(tmp_path / "absent"), "--out", str(tmp_path / "out")]) == DataError.exit_code
    assert "no such folder; expected the folder of EGTEA Gaze+" in capsys.readouterr().err


@dataclass(frozen=True)
class RealBuild:
    rows: list[Conversation]
    summary: Mapping[str, Any]
    table: Path


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RealBuild]:
    builds = {}
    for mode in ("raw", "splits"):
        out = tmp_path_factory.mktemp(mode)
        rows, summary = build(SOURCE, shared_path("data/real/egtea"), mode=mode, out=out)
        builds[mode] = RealBuild(rows, summary, out / "egtea.jsonl")
    return builds


@pytest.mark.parametrize(
    ("mode", "count", "num_answers", "noted"),
    [
        ("raw", 15_484, 1170, {"unknown_object": 60, "verb_and_nouns_disagree_with_action": 6}),
        ("splits", 10_321, 106, {"verb_and_nouns_disagree_with_action": 1}),
    ],
)
def test_the_real_annotations(
    real: dict[str, RealBuild], mode: str, count: int, num_answers: int, noted: dict[str, int]
) -> None:
    rows, summary = real[mode].rows, real[mode].summary
    assert len(rows) == count
    assert len({row.answer for row in rows}) == num_answers
    assert summary["dropped"] == {}
    assert summary["noted"] == {"missing_video": count, **noted}
    assert summary["paper"][0]["agrees"] is (mode == "raw")
    assert not [row.answer for row in rows if re.search(r"_|,\S|unkown|  ", row.answer)]
    assert len({row.instruction for row in rows}) == 10


def test_the_real_raw_annotations_hold_the_papers_10325(real: dict[str, RealBuild]) -> None:
    assert real["raw"].summary["facts"] == {"rows_of_the_106_classes": 10_325}  # Exo2Ego Table 11, description
    assert len({row.video for row in real["raw"].rows}) == 86


def test_both_readings_agree_on_the_real_clips(real: dict[str, RealBuild]) -> None:
    answers = {row.conversation_id: row.answer for row in real["raw"].rows}
    padded = [(re.sub(r"-F\d+-F\d+$", "", row.conversation_id), row.answer) for row in real["splits"].rows]
    assert all(answers[clip] == answer for clip, answer in padded)


def test_the_table_loads_with_datasets(real: dict[str, RealBuild], tmp_path: Path) -> None:
    table = load_with_datasets(real["splits"].table, tmp_path)
    assert (len(table), table[0]["answer"]) == (10_321, "Inspect/Read recipe")


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("Cut bell_pepper", "Cut bell pepper"),
        ("Pour water,water_jug,glass", "Pour water, water jug, glass"),
        ("Transfer unkown,unknown_container", "Transfer unknown, unknown container"),
    ],
)
def test_action_text(label: str, text: str) -> None:
    assert action_text(label) == text
