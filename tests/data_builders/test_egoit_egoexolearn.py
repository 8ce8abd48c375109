"""EgoExoLearn: the ego captions of train and val, three wordings, the voice of the wearer, and the traps."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_builders.egoit.egoexolearn import SOURCE, main
from data_builders.egoit.first_person import first_person
from exo2ego.errors import DataError
from tests.data_builders.egoit_builds import build, load_with_datasets
from tests.data_builders.raw_egoexolearn import CAPTIONS, EGO, HEADER, ROWS, write_egoexolearn
from tests.shared_data import shared_path

NAME = "fine_annotation_trainval_en.csv"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_egoexolearn(tmp_path / "raw")
    return tmp_path / "raw"


def table(raw: Path) -> Path:
    return raw / "annotations" / NAME


def test_ego_captions_of_train_and_val(raw: Path) -> None:
    rows, summary = build(SOURCE, raw)
    assert [(row.conversation_id, row.video, row.start_s, row.end_s, row.answer) for row in rows] == [
        ("egoexolearn/aaaaaaa1", f"{EGO}.mp4", 12.5, 28.7, "Use your hand to hold the pot, and stir."),
        ("egoexolearn/aaaaaaa2", f"{EGO}.mp4", 30.0, 30.1, "Press the button."),
    ]
    assert {(row.question, row.kind) for row in rows} == {("What activities am I engaged in?", "captioning")}
    assert summary["dropped"] == {"ends_before_it_starts": 1, "exo_view": 1, "no_caption": 1, "test_subset": 1}
    assert summary["noted"] == {"missing_video": 2}
    assert set(summary["provenance"]["inputs"]) == {f"annotations/{NAME}", "instructions/egoexolearn.json"}


@pytest.mark.parametrize(
    ("narration", "answers"),
    [
        ("annotated", ["Use your left hand to hold the pot, and stir.", "Press the button with your right hand."]),
        (
            "hand_prompt",
            ["The left hand holds the pot, and the right hand stirs.", "The right hand presses the button."],
        ),
    ],
)
def test_three_wordings(raw: Path, narration: str, answers: list[str]) -> None:
    rows, summary = build(SOURCE, raw, narration=narration)
    assert [row.answer for row in rows[:2]] == answers
    assert rows[2].conversation_id == "egoexolearn/aaaaaaa5"  # lacks the third wording alone
    assert "no_caption" not in summary["dropped"]


def test_the_wearer_can_tell_it(raw: Path) -> None:
    rows, _ = build(SOURCE, raw, first_person=True)
    assert [row.answer for row in rows] == ["I use my hand to hold the pot, and stir.", "I press the button."]


@pytest.mark.parametrize(
    ("caption", "told"),
    [
        ("Take the lid off. Put it on the table.", "I take the lid off. I put it on the table."),
        ("With your hand on the pot, stir the soup.", "With my hand on the pot, I stir the soup."),
        ("After washing, wipe the cup.", "After washing, I wipe the cup."),
        ("Finally, gently stir it.", "Finally, I gently stir it."),
        ("Then you can serve it.", "Then I can serve it."),
        ("Pick up the bowl in front of you.", "I pick up the bowl in front of me."),
        ("You are holding yours yourself.", "I am holding mine myself."),
        ("Can you see whether you're done?", "Can I see whether I am done?"),
        ("The right hand presses the button.", "The right hand presses the button."),
        ("I am holding a plate. I pour it out.", "I am holding a plate. I pour it out."),
        ("Stir-frying takes a while.", "Stir-frying takes a while."),
        ("your cup", "My cup"),
    ],
)
def test_first_person(caption: str, told: str) -> None:
    assert first_person(caption) == told


@given(
    st.text(max_size=80)
    | st.lists(st.sampled_from(["you", "Your", "stir", "the", "pot", "of", ",", "."])).map(" ".join)
)
def test_nobody_is_addressed_any_more_and_telling_it_again_changes_nothing(caption: str) -> None:
    told = first_person(" ".join(caption.split()))
    assert not {"you", "your", "yours", "yourself"} & set(told.lower().split())
    assert first_person(told) == told


def test_the_id_column_has_two_names(raw: Path) -> None:
    first, _ = build(SOURCE, raw)
    table(raw).write_text(table(raw).read_text().replace("annotation_id", "annotation_uid"))
    assert build(SOURCE, raw)[0] == first


def test_the_table_of_all_splits_serves_as_well(raw: Path) -> None:
    first, _ = build(SOURCE, raw)
    table(raw).rename(raw / "fine_annotation_trainvaltest_en.csv")
    assert build(SOURCE, raw)[0] == first


def test_the_test_table_alone_is_refused(raw: Path) -> None:
    table(raw).unlink()
    with pytest.raises(DataError, match=rf"fine_annotation_test.csv has no captions, .* expected {NAME}"):
        build(SOURCE, raw)
    shutil.copyfile(raw / "annotations" / "fine_annotation_test.csv", table(raw))
    with pytest.raises(DataError, match=r"fine captions lacks the column narration_en, narration_en_hand_prompt, "):
        build(SOURCE, raw)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (",12.5,", ",noon,", "line 2: start_sec: "),
        (",12.5,", ",", "line 2: fine captions: expected 10 fields, got 9"),
        (f"{EGO},aaaaaaa2", "../x,aaaaaaa2", "line 3: video_uid: .* cannot name a file"),
        ("aaaaaaa2", "aaaaaaa1", "line 3: the id 'aaaaaaa1' is given twice in egoexolearn"),
        (",val,ego", ",val,top", "line 3: view: "),
        ("view,", "", "lacks the column view"),
        ('stir."', "stir.", "is not a table of `,`|expected 10 fields"),
    ],
)
def test_faults_are_named(raw: Path, before: str, after: str, message: str) -> None:
    text = table(raw).read_text()
    assert before in text
    table(raw).write_text(text.replace(before, after, 1))
    with pytest.raises(DataError, match=message):
        build(SOURCE, raw)
    assert not list((raw.parent / "out").iterdir())


def test_white_space_and_capitals_of_the_columns_do_not_matter(raw: Path) -> None:
    first, _ = build(SOURCE, raw)
    table(raw).write_text("\n".join(["\ufeff" + HEADER + "," + CAPTIONS, *ROWS]).replace(",val,ego,", ", Val ,EGO ,"))
    assert build(SOURCE, raw)[0] == first


def test_the_command(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--root", str(raw), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--narration", "hand_prompt", "--first-person"]) == 0
    assert "egoexolearn: 3 rows, the paper has about 45,000 (Table 1)" in capsys.readouterr().out


def test_made_up_rows_of_the_reference_material(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    shutil.copyfile(shared_path(f"data/synthetic/{NAME}"), raw / NAME)
    rows, summary = build(SOURCE, raw)
    assert [row.answer for row in rows] == [
        "Use your hand to hold the pot, and use your hand to take a spoon and stir the vegetables.",
        "Press the button.",
    ]
    assert summary["dropped"] == {"exo_view": 1}


def test_real_captions(tmp_path: Path) -> None:
    """The captions of the exo view have the same columns; here they are shown as if they were of the ego view."""
    source = shared_path("data/real/egoexolearn/association_exo_train.csv")
    with source.open(encoding="utf-8-sig", newline="") as stream:
        captions = list(csv.DictReader(stream))
    raw = tmp_path / "raw"
    raw.mkdir()
    with (raw / NAME).open("w", encoding="utf-8", newline="") as stream:
        columns = [*HEADER.split(","), *CAPTIONS.split(",")]
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**row, "subset": "train", "view": "ego", "scene": row["scenario"]} for row in captions)
    rows, summary = build(SOURCE, raw)
    assert len(rows) == 6270
    assert summary["dropped"] == {}
    loaded = load_with_datasets(tmp_path / "out" / "egoexolearn.jsonl", tmp_path / "cache")
    assert loaded["answer"][0].startswith(
        "Use your hand to hold down the meat piece, and use your hand to take a knife"
    )
    told, _ = build(SOURCE, raw, first_person=True)
    in_first_person = [row for row in told if {"I", "my", "me"} & set(row.answer.replace(",", " ").split())]
    assert len(in_first_person) > 0.95 * len(told)
    assert not [row.answer for row in told if {"you", "your"} & set(row.answer.lower().split())]


def test_the_real_test_table_is_refused(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    head = shared_path("data/real/egoexolearn/fine_annotation_test.head200.csv")
    shutil.copyfile(head, raw / "fine_annotation_test.csv")
    with pytest.raises(DataError, match="nothing can be trained on it"):
        build(SOURCE, raw)
