"""The quality report: on tables whose answer is known, on tables of few questions, and by the command."""

from __future__ import annotations

import json
import random
import string
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_builders.distractors import quality
from data_builders.distractors.guessability import (
    Choice,
    also_correct,
    blind_baselines,
    position_balance,
    similarities,
)
from data_builders.distractors.quality import measure_quality, report_quality, write_quality
from data_builders.distractors.quality_report import summary_sentence, write_report
from data_builders.egobench.options import EgoBenchOptions, shuffled_options
from data_builders.source import Account
from exo2ego.errors import DataError
from exo2ego.records import Question
from exo2ego.storage import write_jsonl
from tests.conftest import RunPython
from tests.text_encoders import WordEncoder


def choice(options: list[str], answer_index: int, video: str = "v", **others: Any) -> Choice:
    values: dict[str, Any] = {"question": "what?", "also_correct": None, "similarities": None, **others}
    return Choice(options=tuple(options), answer_index=answer_index, video=video, **values)


def write_table(path: Path, choices: list[Choice], more: tuple[Question, ...] = ()) -> Path:
    questions = [
        Question(
            id=f"t/{number}",
            task=path.stem,
            source="s",
            video=one.video,
            question=one.question,
            options=list(one.options),
            answer_index=one.answer_index,
            meta={
                key: list(value)
                for key, value in (("also_correct", one.also_correct), ("similarities", one.similarities))
                if value is not None
            },
        )
        for number, one in enumerate(choices)
    ]
    write_jsonl(path, (question.to_row() for question in (*questions, *more)))
    return path


def random_choices(count: int, seed: int = 0, size: int = 5) -> list[Choice]:
    """Questions that nothing but the answer tells: random options of one length, each video with its own words."""
    rng = random.Random(seed)
    choices = []
    for number in range(count):
        words = ["".join(rng.choices(string.ascii_lowercase, k=8)) for _ in range(size)]
        options, index = shuffled_options(words[0], words[1:], task="t", question_id=str(number), seed=seed)
        choices.append(choice(options, index, f"v{number % 60}"))
    return choices


def accuracy(choices: list[Choice], name: str) -> float:
    told = blind_baselines(choices, WordEncoder())[name]
    assert told is not None
    return float(told["accuracy"])


def test_a_set_that_tells_nothing_is_not_told_from_chance() -> None:
    for told in blind_baselines(random_choices(600), WordEncoder()).values():
        assert told is not None
        assert told["against_chance"] == "not told from"
        assert told["chance"] == pytest.approx(0.2)
        assert told["interval"]["low"] <= 0.2 <= told["interval"]["high"]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_each_baseline_finds_what_gives_the_answer_away(number: int) -> None:
    name = ("longest_option", "most_frequent_answer", "nearest_to_question")[number]
    planted = []
    for one in random_choices(200):
        options = list(one.options)
        options[one.answer_index] += ("and more", "", " what?")[number]
        if name == "most_frequent_answer":
            options[one.answer_index] = "open door"
        planted.append(choice(options, one.answer_index, one.video))
    told = blind_baselines(planted, WordEncoder())[name]
    assert told is not None
    assert told["accuracy"] == 1
    assert told["against_chance"] == "above"


def test_options_that_tie_share_the_credit() -> None:
    assert accuracy([choice(["aa", "bb", "c"], 0), choice(["aa", "bb", "c"], 2)], "longest_option") == 0.25


def test_a_question_does_not_tell_its_own_answer_nor_another_of_its_video() -> None:
    unique = [choice([f"a{number}", f"b{number}"], 0, f"v{number}") for number in range(20)]
    assert accuracy(unique, "most_frequent_answer") == 0.5
    one_video = [choice(["yes", f"no {number}"], 0, "v") for number in range(20)]
    assert accuracy(one_video, "most_frequent_answer") == 0.5
    two_videos = [choice(["Yes.", f"no {number}"], 0, f"v{number % 2}") for number in range(20)]
    assert accuracy(two_videos, "most_frequent_answer") == 1


def test_without_encoder_the_nearest_option_is_not_measured() -> None:
    assert blind_baselines(random_choices(3), None)["nearest_to_question"] is None


def test_one_question_claims_nothing() -> None:
    told = blind_baselines([choice(["longer", "b"], 0)], WordEncoder())
    assert told["longest_option"]["interval"] == {"low": 0.0, "high": 1.0}  # type: ignore[index]
    assert told["longest_option"]["against_chance"] == "not told from"  # type: ignore[index]
    assert position_balance([choice(["a", "b"], 0)])["p"] == 1


def test_a_truth_at_a_fixed_place_is_found_and_a_shuffled_one_is_not() -> None:
    fixed = [choice(["a", "b", "c"], 0, str(number)) for number in range(30)]
    assert position_balance(fixed)["p"] < 0.001
    assert position_balance(fixed)["counts"] == [30, 0, 0]
    for size in (2, 5, 10):
        assert position_balance(random_choices(400, size=size))["p"] > 0.01


def test_the_simulated_probability_is_that_of_chi_square_for_many_questions() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = numpy.random.default_rng(1)
    for _ in range(4):
        told = position_balance([choice(list("abcde"), int(place)) for place in rng.integers(0, 5, 3000)])
        assert told["p"] == pytest.approx(stats.chi2.sf(told["chi_square"], 4), abs=0.02)


def test_places_of_questions_of_different_size_are_expected_apart() -> None:
    told = position_balance([choice(["a", "b"], 1)] * 4 + [choice(list("abcd"), 3)] * 4)
    assert told["counts"] == [0, 4, 0, 4]
    assert told["expected"] == [3.0, 3.0, 1.0, 1.0]
    assert told["degrees_of_freedom"] == 4


@given(st.integers(0, 10**6), st.integers(2, 10))
def test_the_shuffle_leaves_the_truth_at_no_fixed_place(seed: int, size: int) -> None:
    wrong = [f"wrong {number}" for number in range(size - 1)]
    places = {shuffled_options("t", wrong, task="t", question_id=str(number), seed=seed)[1] for number in range(200)}
    assert places == set(range(size))


def test_shares_are_of_the_questions_that_tell() -> None:
    told = also_correct([
        choice(["a", "b", "c"], 0, also_correct=(1, 2)),
        choice(["a", "b", "c"], 0, also_correct=()),
        choice(["a", "b", "c"], 0),
    ])  # fmt: skip
    assert told is not None
    assert (told["questions_that_tell"], told["share_of_questions"], told["share_of_distractors"]) == (2, 0.5, 0.5)
    assert told["oracle_accuracy"] == pytest.approx((1 / 3 + 1) / 2)
    assert also_correct([choice(["a", "b"], 0)]) is None


@given(st.lists(st.lists(st.integers(-100, 100), min_size=1, max_size=4), min_size=1, max_size=20))
def test_every_similarity_is_in_its_bin(values: list[list[int]]) -> None:
    told = similarities([
        choice(["t", *map(str, wrong)], 0, similarities=(1.0, *(value / 100 for value in wrong))) for wrong in values
    ])  # fmt: skip
    assert told is not None
    every, nearest = [value for one in values for value in one], [max(one) for one in values]
    for key, expected in (("all_distractors", every), ("nearest_distractor", nearest)):
        rows = told[key]["histogram"]
        assert sum(row["count"] for row in rows) == len(expected) == told[key]["count"]
        for row in rows:
            low = round(row["from"] * 100)
            assert row["count"] == sum(low <= min(value, 99) < low + 5 for value in expected)


def test_the_report_says_what_cannot_be_told(tmp_path: Path) -> None:
    hidden = Question(id="h", task="t", source="s", video="w", question="q", options=["a", "b"])
    open_question = Question(id="o", task="t", source="s", video="w", question="q", options=[], answer_text="a")
    path = write_table(tmp_path / "t.jsonl", random_choices(30), (hidden, open_question))
    measured = measure_quality(path, None)
    assert (measured["questions"], measured["questions_judged"]) == (32, 30)
    text = write_report(measured, None)
    for part in ("Cannot tell", "Not recorded", "not measured", "1 are open questions", "1 have no public answer"):
        assert part in text
    assert "another option is true: cannot tell" in summary_sentence(measured)


def test_a_table_without_anything_to_judge_has_a_report(tmp_path: Path) -> None:
    open_question = Question(id="o", task="t", source="s", video="w", question="q", options=[], answer_text="a")
    measured = measure_quality(write_table(tmp_path / "t.jsonl", [], (open_question,)), WordEncoder())
    assert "No question can be judged" in write_report(measured, None)
    assert "no question with options" in summary_sentence(measured)


def test_a_build_gets_its_report_beside_the_table(tmp_path: Path) -> None:
    path = write_table(tmp_path / "t.jsonl", random_choices(10))
    account = Account()
    report_quality(EgoBenchOptions(root=tmp_path, out=tmp_path), {"t": path}, account)
    assert {one.name for one in tmp_path.iterdir()} == {"t.jsonl", "t.quality.json", "t.quality.md"}
    assert account.facts["quality of t"].startswith("another option is true: cannot tell")


def test_the_same_table_gives_the_same_report(tmp_path: Path) -> None:
    path = write_table(tmp_path / "t.jsonl", random_choices(50))
    assert measure_quality(path, WordEncoder()) == measure_quality(path, WordEncoder())


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"id": "x"}, r"question 1 is not an EgoBench record: task: Field required"),
        ({"meta": {"similarities": [1.0]}}, r"question 1: meta.similarities has 1 values for 2 options"),
        ({"meta": {"also_correct": [0]}}, r"question 1: meta.also_correct names \(0,\), not other options"),
        ({"meta": {"also_correct": [7]}}, r"question 1: meta.also_correct names \(7,\), not other options"),
        ({"meta": {"also_correct": "ab"}}, r"question 1 is not an EgoBench record: also_correct"),
        ({"meta": {"similarities": "ab"}}, r"question 1 is not an EgoBench record: similarities"),
    ],
)
def test_a_faulty_table_is_refused(tmp_path: Path, row: dict[str, Any], fault: str) -> None:
    good = Question(id="x", task="t", source="s", video="w", question="q", options=["a", "b"], answer_index=0).to_row()
    path = tmp_path / "t.jsonl"
    write_jsonl(path, [{**good, **row} if "meta" in row else row])
    with pytest.raises(DataError, match=fault):
        measure_quality(path, None)


def test_an_empty_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").touch()
    with pytest.raises(DataError, match="holds no questions"):
        measure_quality(tmp_path / "t.jsonl", None)


def test_the_command_writes_report_and_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(quality, "load_encoder", lambda _: WordEncoder())
    choices = [
        choice(one.options, one.answer_index, one.video, also_correct=(), similarities=(0.5, 0.6, 0.7, 0.8, 1.0))  # type: ignore[arg-type]
        for one in random_choices(40)
    ]
    path = write_table(tmp_path / "t.jsonl", choices)
    out = tmp_path / "out"
    assert quality.main(["--questions", str(path), "--out", str(out)]) == 0
    told = json.loads((out / "t.quality.json").read_text())
    assert told["questions"] == 40
    assert told["provenance"]["inputs"] == {"t": told["sha256"]}
    assert (out / "t.similarities.png").read_bytes().startswith(b"\x89PNG")
    assert "](t.similarities.png)" in (out / "t.quality.md").read_text()
    assert "t: another option is true: 0.0%" in capsys.readouterr().out


def test_without_matplotlib_there_is_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    measured = measure_quality(
        write_table(tmp_path / "t.jsonl", [choice(["a", "b"], 0, similarities=(1.0, 0.5))]), None
    )
    write_quality(measured, tmp_path)
    assert "![" not in (tmp_path / "t.quality.md").read_text()
    assert not list(tmp_path.glob("*.png"))


def test_the_command_refuses_what_would_overwrite_and_what_is_not_there(run_python: RunPython, tmp_path: Path) -> None:
    module = ("-m", "data_builders.distractors.quality")
    done = run_python(*module, "--questions", "a/t.jsonl", "b/t.jsonl", "--out", tmp_path)
    assert (done.returncode, "two files would write t.quality.json" in done.stderr) == (2, True)
    done = run_python(*module, "--questions", tmp_path / "none.jsonl")
    assert (done.returncode, "none.jsonl" in done.stderr, "Traceback" in done.stderr) == (3, True, False)
    done = run_python(*module, "--help")
    assert (done.returncode, "--questions" in done.stdout) == (0, True)
