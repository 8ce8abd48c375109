"""Something-Something-V2: both file names, splits, forms of the answer, and their traps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from data_builders.egoit.ssv2 import SOURCE, main
from exo2ego.data.prompting import LETTER_REQUEST, LETTERS
from exo2ego.errors import DataError
from tests.data_builders.egoit_builds import build, load_with_datasets
from tests.data_builders.raw_ssv2 import CLASSES, write_ssv2
from tests.shared_data import shared_path

CLASS_OF_ROW = {
    "ssv2/90000001": "Holding something next to something",
    "ssv2/90000002": "Something falling like a feather or paper",
    "ssv2/90000003": "Moving part of something",
    "ssv2/90000010": "Pretending to take something from somewhere",
    "ssv2/1420": "Throwing something",
    "ssv2/50058": "Stacking number of something",
}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_ssv2(tmp_path / "raw")
    return tmp_path / "raw"


@pytest.mark.parametrize("prefix", ["labels/", "something-something-v2-", "", "labels/something-something-v2-"])
def test_all_splits_under_either_name(tmp_path: Path, prefix: str) -> None:
    write_ssv2(tmp_path / "raw", prefix)
    rows, summary = build(SOURCE, tmp_path / "raw")
    assert {row.conversation_id: row.answer for row in rows} == CLASS_OF_ROW
    assert rows[0].video == "20bn-something-something-v2/90000001.webm"
    assert (rows[0].start_s, rows[0].end_s, rows[0].question) == (None, None, "What action is being performed?")
    assert summary["noted"] == {"missing_video": 6}


def test_labels_are_sentences_that_test_does_not_have(raw: Path) -> None:
    rows, summary = build(SOURCE, raw, answers="label")
    assert [row.answer for row in rows] == [
        "holding cup next to spoon",
        "paper falling like a feather or paper",
        "moving the lid ofa jar",  # as the crowd worker typed it, but for the space at its end
        "pretending to take pen from desk",
    ]
    assert summary["dropped"] == {"test_has_no_label": 2}


def test_splits_can_be_chosen(raw: Path) -> None:
    for name in ("train.json", "test.json", "test-answers.csv"):
        (raw / "labels" / name).unlink()
    rows, _ = build(SOURCE, raw, splits=["validation", "validation"])
    assert [row.conversation_id for row in rows] == ["ssv2/90000010"]
    with pytest.raises(DataError, match=r"train.json of Something-Something-V2 not found"):
        build(SOURCE, raw)


@pytest.mark.parametrize("form", ["letter_and_text", "letter", "text"])
def test_a_choice_among_classes(raw: Path, form: str) -> None:
    rows, _ = build(SOURCE, raw, answers="choice", choice_answer=form)
    for row in rows:
        truth = CLASS_OF_ROW[row.conversation_id]
        assert len(set(row.options)) == 5
        assert set(row.options) <= set(CLASSES)
        letter = LETTERS[row.options.index(truth)]
        assert row.answer == {"letter_and_text": f"({letter}) {truth}", "letter": letter, "text": truth}[form]
        assert row.instruction.endswith(LETTER_REQUEST) is (form == "letter")


def test_choices_depend_on_seed_and_id_alone(raw: Path) -> None:
    whole = {row.conversation_id: row for row in build(SOURCE, raw, answers="choice")[0]}
    part, _ = build(SOURCE, raw, answers="choice", splits=["test"])
    assert part == [whole["ssv2/1420"], whole["ssv2/50058"]]
    other_seed, _ = build(SOURCE, raw, answers="choice", seed=1)
    assert [row.options for row in other_seed] != [row.options for row in whole.values()]


@pytest.mark.parametrize(
    ("name", "before", "after", "message"),
    [
        (
            "train.json",
            "Holding [something]",
            "Hugging [something]",
            r"row 1: 'Hugging something next to something' is",
        ),
        ("train.json", '"90000001"', '"../90000001"', "row 1: id: .* cannot name a file"),
        ("train.json", '"90000001"', "90000001", "row 1: id: Input should be a valid string"),
        ("validation.json", "90000010", "90000001", "row 1: the id '90000001' is given twice in ssv2"),
        ("train.json", '"template"', '"template_"', "row 1: template: Field required"),
        ("train.json", "}]", "}", "train split is not valid JSON: line 1"),
        ("labels.json", "Throwing", r"\ud800", r"'\\ud800 something' is not the name of a class"),
        ("labels.json", '"0"', '"1"', "expected class names with their numbers"),
        ("labels.json", '"0"', "0", 'expected class names with their numbers as texts, "0" to "173"'),
        (
            "test-answers.csv",
            "1420;Throwing",
            "1420;Hugging",
            "line 1: 'Hugging something' is not one of the 7 classes",
        ),
        ("test-answers.csv", "50058;", "1420;", "line 2: a second answer for '1420'"),
        ("test-answers.csv", "50058;", "50059;", "test.json: row 2: test-answers.csv has no answer for '50058'"),
        ("test-answers.csv", "50058;", "50058,", "line 2: test answers: expected 2 fields, got 1"),
    ],
)
def test_faults_are_named(raw: Path, name: str, before: str, after: str, message: str) -> None:
    path = raw / "labels" / name
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(DataError, match=message):
        build(SOURCE, raw)
    assert not (raw.parent / "out").exists() or not list((raw.parent / "out").iterdir())


def test_the_command(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--root", str(raw), "--out", str(tmp_path / "out"), "--splits", "train", "validation"]
    assert main(arguments) == 0
    assert "ssv2: 4 rows, the paper has about 221,000 (Table 1)" in capsys.readouterr().out
    assert main([*arguments, "--answers", "class", "--splits", "dev"]) == 2
    assert "splits.0: Input should be 'train', 'validation' or 'test'" in capsys.readouterr().err


def test_real_rows(tmp_path: Path) -> None:
    labels = tmp_path / "raw" / "labels"
    labels.mkdir(parents=True)
    shutil.copyfile(shared_path("data/real/ssv2/labels.json"), labels / "labels.json")
    # Something-Else has rows of SSv2 in their original form
    shots = shared_path("data/real/something_else/fewshot/finetune_5shot_training.json")
    shutil.copyfile(shots, labels / "train.json")
    classes, _ = build(SOURCE, tmp_path / "raw", splits=["train"])
    assert (len(classes), len({row.answer for row in classes})) == (430, 86)
    sentences, _ = build(SOURCE, tmp_path / "raw", splits=["train"], answers="label")
    assert [row.answer for row in sentences] == [
        " ".join(row["label"].split()) for row in json.loads(shots.read_text())
    ]
    choices, _ = build(SOURCE, tmp_path / "raw", splits=["train"], answers="choice")
    letters = [row.answer[1] for row in choices]
    assert all(60 <= letters.count(letter) <= 115 for letter in "ABCDE")  # 86 each if drawn evenly
    table = load_with_datasets(tmp_path / "out" / "ssv2.jsonl", tmp_path / "cache")
    assert [len(options) for options in table["options"]] == [5] * 430


def test_made_up_rows_of_the_reference_material(tmp_path: Path) -> None:
    synthetic = shared_path("data/synthetic")
    raw = tmp_path / "raw"
    raw.mkdir()
    shutil.copyfile(shared_path("data/real/ssv2/labels.json"), raw / "labels.json")
    for name in ("train.json", "test.json", "test-answers.csv"):
        shutil.copyfile(synthetic / f"ssv2_{name}", raw / f"something-something-v2-{name}")
    rows, _ = build(SOURCE, raw, splits=["train", "test"])
    assert [row.answer for row in rows] == [
        "Holding something next to something",
        "Something falling like a feather or paper",
        "Throwing something",
        "Stacking number of something",
    ]
