"""EgoTimeQA: open and closed questions mixed, moments in seconds of the clip, ids of our own, and the traps."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_builders.egoit.egotimeqa import SOURCE, main
from data_builders.source import Account
from exo2ego.data.prompting import LETTER_REQUEST, LETTERS, normal_form
from exo2ego.errors import DataError
from tests.data_builders.egoit_builds import build, load_with_datasets
from tests.data_builders.raw_egotimeqa import CLIP, OTHER_CLIP, question, write_egotimeqa
from tests.shared_data import shared_path

NAME = "annotations.EgoTimeQA.json"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_egotimeqa(tmp_path / "raw")
    return tmp_path / "raw"


def write_rows(folder: Path, rows: list[dict[str, object]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NAME).write_text(json.dumps(rows))
    return folder


def test_open_questions(raw: Path) -> None:
    rows, summary = build(SOURCE, raw, form="open")
    assert [(row.conversation_id, row.start_s, row.end_s) for row in rows] == [
        (f"egotimeqa/{CLIP}/0", 120.05, 128.575),
        (f"egotimeqa/{CLIP}/1", 120.083333, 128.608333),
        (f"egotimeqa/{CLIP}/2", 120.116667, 128.641667),
        (f"egotimeqa/{OTHER_CLIP}/0", 120.15, 128.675),
        (f"egotimeqa/{OTHER_CLIP}/1", 0.0, 1.0),
        (f"egotimeqa/{OTHER_CLIP}/2", 120.216667, 128.741667),
    ]
    assert rows[0].video == f"v1/clips/{CLIP}.mp4"
    assert [(row.question, row.answer) for row in rows[2:4]] == [
        ("Did I wash the knife?", "yes"),
        ("How many eggs did I crack?", "2"),
    ]
    assert {row.kind for row in rows} == {"open_qa"}
    assert not any(row.options for row in rows)
    assert summary["dropped"] == {"ends_before_it_starts": 1, "no_question_or_answer": 1}
    assert summary["noted"] == {"missing_video": 6, "starts_before_the_video": 1}


@pytest.mark.parametrize("form", ["letter_and_text", "letter", "text"])
def test_closed_questions(raw: Path, form: str) -> None:
    answers = [row.answer for row in build(SOURCE, raw, form="open")[0]]
    rows, summary = build(SOURCE, raw, form="closed", choice_answer=form)
    assert len(rows) == 5
    assert summary["dropped"]["not_four_different_choices"] == 1
    assert rows[3].options != sorted(rows[3].options)
    assert sorted(rows[3].options) == ["1", "2", "3", "4"]
    for row, truth in zip(rows, answers, strict=False):
        letter = LETTERS[row.options.index(truth)]
        assert row.answer == {"letter_and_text": f"({letter}) {truth}", "letter": letter, "text": truth}[form]
        assert row.kind == "closed_qa"
        assert row.instruction.endswith(LETTER_REQUEST) is (form == "letter")


def test_half_of_the_questions_are_closed(tmp_path: Path) -> None:
    root = write_rows(tmp_path / "raw", [question(number) for number in range(2000)])
    rows, _ = build(SOURCE, root)
    closed = [row for row in rows if row.kind == "closed_qa"]
    assert 0.45 < len(closed) / 2000 < 0.55  # four and a half standard deviations
    first = [row.options.index("drank it myself") for row in closed]
    assert all(0.2 < first.count(place) / len(closed) < 0.3 for place in range(4))
    assert {row.instruction for row in closed} == {row.instruction for row in rows}


def test_what_is_drawn_depends_on_seed_and_id_alone(tmp_path: Path) -> None:
    questions = [question(number, video_id=[CLIP, OTHER_CLIP][number % 2]) for number in range(60)]
    whole, _ = build(SOURCE, write_rows(tmp_path / "whole", questions))
    one_clip, _ = build(SOURCE, write_rows(tmp_path / "part", questions[::2]))
    assert one_clip == [row for row in whole if CLIP in row.video]
    other_seed, _ = build(SOURCE, tmp_path / "whole", seed=1)
    assert [row.kind for row in other_seed] != [row.kind for row in whole]


def test_a_question_without_four_different_choices_stays_open(tmp_path: Path) -> None:
    root = write_rows(tmp_path / "raw", [question(number, wrong_answers=["no"]) for number in range(20)])
    rows, summary = build(SOURCE, root)
    assert [row.kind for row in rows] == ["open_qa"] * 20
    assert 3 <= summary["noted"]["open_because_not_four_different_choices"] <= 17


def test_wrong_answers_may_be_no_texts(tmp_path: Path) -> None:
    changes = [{"answer": True, "wrong_answers": [False, 2, 0.5]}, {"wrong_answers": [None, "no", 4]}]
    root = write_rows(tmp_path / "raw", [question(number, **one) for number, one in enumerate(changes)])
    (row,), summary = build(SOURCE, root, form="closed", choice_answer="text")
    assert (row.answer, sorted(row.options)) == ("True", ["0.5", "2", "False", "True"])
    assert summary["dropped"] == {"not_four_different_choices": 1}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("Did l wash it?", "Did I wash it?"),
        ("l washed what?", "I washed what?"),
        ("Where am l?", "Where am I?"),
        ("What did l do when l left", "What did I do when I left"),
        ("What have l’ve or l'm done?", "What have I’ve or I'm done?"),
        ("Which l-shaped hall did I fill?", "Which l-shaped hall did I fill?"),
        ("Is all of the oil 1l?", "Is all of the oil 1l?"),
    ],
)
def test_a_small_l_that_stands_for_i(tmp_path: Path, written: str, meant: str) -> None:
    root = write_rows(tmp_path / "raw", [question(question=written)])
    assert build(SOURCE, root)[0][0].question == meant


def test_qaego4d_is_another_file(tmp_path: Path) -> None:
    root = write_rows(tmp_path / "raw", [question(), question(1, video_uid="x", video_start_sec=0, video_end_sec=9)])
    with pytest.raises(DataError, match=r"row 2: has `video_start_sec`: a row of QAEgo4D; expected the file annot"):
        build(SOURCE, root)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"video_id": "../../etc/passwd"}, r"row 2: video_id: .* cannot name a file"),
        ({"video_id": "é" * 101}, r"row 2: video_id: .* cannot name a file: it has more than 200 bytes"),
        ({"moment_start_frame": "soon"}, r"row 2: moment_start_frame: "),
        ({"moment_end_frame": None}, r"row 2: moment_end_frame: "),
        ({"wrong_answers": "no"}, r"row 2: wrong_answers: "),
        ({"question": ["what?"]}, r"row 2: question: "),
    ],
)
def test_faults_are_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    root = write_rows(tmp_path / "raw", [question(), question(1, **changes)])
    with pytest.raises(DataError, match=message):
        build(SOURCE, root)


@pytest.mark.parametrize("layout", ["v1/clips", "v2/clips", "clips", "."])
def test_clips_are_found_as_the_ego4d_command_puts_them(raw: Path, tmp_path: Path, layout: str) -> None:
    video = tmp_path / "ego4d" / layout / f"{CLIP}.mp4"
    video.parent.mkdir(parents=True)
    video.touch()
    rows, summary = build(SOURCE, raw, videos=tmp_path / "ego4d", missing_videos="drop")
    assert {row.video for row in rows} == {f"{layout}/{CLIP}.mp4".removeprefix("./")}
    assert summary["dropped"]["missing_video"] == 3


@given(
    st.lists(
        st.builds(
            question,
            answer=st.text(max_size=9),
            question=st.text(max_size=20),
            moment_start_frame=st.floats(-1e4, 1e6) | st.integers(-9, 10**6),
            moment_end_frame=st.floats(-1e4, 1e6),
            wrong_answers=st.lists(st.text(max_size=5) | st.integers(0, 9), max_size=5),
        ),
        max_size=12,
    )
)
def test_every_row_is_a_record_or_in_the_account(tmp_path_factory: pytest.TempPathFactory, rows: list) -> None:
    root = write_rows(tmp_path_factory.mktemp("raw"), rows)
    account = Account()
    options = SOURCE.options(root=root, out=root / "out")
    try:
        records = [record for table in SOURCE.read(options, account).values() for record in table]
    except DataError:  # a text no file can store, as half a character
        return
    assert len(records) + sum(account.dropped.values()) == len(rows)
    assert len({record.conversation_id for record in records}) == len(records)
    for record in records:
        assert 0 <= record.start_s <= record.end_s
        assert len({normal_form(option) for option in record.options}) == len(record.options) in {0, 4}
        assert not record.options or record.answer[4:] in record.options


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    peaks = []
    for count in (1_000, 3_000):
        root = write_rows(tmp_path / str(count), [question(number % 50, answer="a" * 4000) for number in range(count)])
        account = Account()
        tracemalloc.start()
        table = SOURCE.read(SOURCE.options(root=root, out=root), account)["egotimeqa"]
        assert sum(1 for _ in table) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 2_000 * 500  # what is kept of a row is its id, while a row has 4,300 characters


def test_the_command(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(raw), "--out", str(tmp_path / "out")]) == 0
    assert "egotimeqa: 6 rows, the paper has about 303,000 (Table 1)" in capsys.readouterr().out
    assert main(["--root", str(tmp_path), "--out", str(tmp_path / "out")]) == DataError.exit_code
    assert f"questions of EgoTimeQA not found; expected {NAME} or data/unified/{NAME}" in capsys.readouterr().err


def test_made_up_rows_of_the_reference_material(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    shutil.copyfile(shared_path(f"data/synthetic/{NAME}"), raw / NAME)
    rows, _ = build(SOURCE, raw, form="open")
    assert [(row.question, row.answer, row.start_s) for row in rows] == [
        ("What did I do with the cup?", "gave it to Person B", 120.047477),
        ("Did I wash the knife?", "yes", 0.416667),
    ]


def test_the_table_loads_with_datasets(raw: Path, tmp_path: Path) -> None:
    rows, _ = build(SOURCE, raw)
    table = load_with_datasets(tmp_path / "out" / "egotimeqa.jsonl", tmp_path / "cache")
    assert table["id"] == [row.conversation_id for row in rows]
    assert {len(options) for options in table["options"]} == {0, 4}
