"""Bad input and failing models, through `python -m eval.egobench`: a clear message or a counted outcome."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from eval import egobench, shown_clips
from eval.answer_plan import AnswerPlan
from eval.answering import LONGEST_ROW_OF_FAULTS
from eval.predictions import read_failures, read_predictions
from exo2ego.data.spans import Span
from exo2ego.errors import DataError, EvaluationError
from exo2ego.storage import read_json, read_jsonl
from tests.eval.evaluation_setup import question_row
from tests.eval.stub_model import Fault, StubModel, one_clip_each, raising, run, write_questions

NUM_QUESTIONS = 6
HALF = "max_failure_rate=0.5"
NAN = float("nan")


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_questions(tmp_path_factory.mktemp("setup"), one_clip_each(NUM_QUESTIONS))


def said(capsys: pytest.CaptureFixture[str]) -> str:
    told = capsys.readouterr()
    return " ".join((told.out + told.err).split())


def scored(output: Path, mode: str) -> dict[str, Any]:
    (row,) = [row for row in read_json(output / "results.json")["results"] if row["mode"] == mode]
    return dict(row)


def answers(output: Path) -> list[dict[str, Any]]:
    rows = [{**row, "seconds": 0} for row in read_jsonl(output / "predictions.jsonl")]
    return sorted(rows, key=lambda row: (row["id"], row["mode"]))


FAULTS: dict[str, tuple[str, Fault, str, str]] = {
    "NaN": ("score", lambda: [[-1.0, NAN, -2.0, -3.0, -4.0]], "not_finite", "option scores are not finite"),
    "infinity": ("score", lambda: [[-1.0, -float("inf"), 0, 0, 0]], "not_finite", "option scores are not finite"),
    "too few scores": ("score", lambda: [[-1.0, -2.0]], "wrong_shape", "[-1.0, -2.0], expected 5 numbers"),
    "too many scores": ("score", lambda: [[-1.0] * 6], "wrong_shape", "expected 5 numbers"),
    "no scores": ("score", lambda: [[]], "wrong_shape", "score returned [], expected 5 numbers"),
    "no questions": ("score", list, "wrong_shape", "expected a list of scores for each of 1 questions"),
    "nothing": ("score", lambda: None, "wrong_shape", "score returned None, expected a list of scores"),
    "no list": ("score", lambda: [None], "wrong_shape", "score returned None, expected 5 numbers"),
    "words": ("score", lambda: ["ABCDE"], "wrong_shape", "score returned 'ABCDE', expected 5 numbers"),
    "an error": ("score", raising(IndexError("list index")), "model", "IndexError: list index (stub_model.py:"),
    "a full GPU": (
        "score",
        raising(torch.OutOfMemoryError("CUDA out of memory.")),
        "out_of_memory",
        "fewer num_frames",
    ),
    "a full machine": ("encode", raising(MemoryError()), "out_of_memory", "MemoryError"),
    "an error while encoding": ("encode", raising(RuntimeError("shapes")), "model", "RuntimeError: shapes"),
    "no text": ("generate", lambda: None, "wrong_shape", "generate returned None, expected a text"),
    "bytes": ("generate", lambda: b"(A)", "wrong_shape", "generate returned b'(A)', expected a text"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_model_that_fails_at_one_question_loses_that_one(
    setup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """The others are answered; it is listed, never scored, and asked again: then nothing shows that it ever failed."""
    method, fault, reason, detail = FAULTS[name]
    output, whole = tmp_path / "out", tmp_path / "whole"
    faults = {(method, number): fault for number in ((4, 5) if method == "score" else (2,))}
    assert run(StubModel(faults), setup, output, monkeypatch, HALF) == 0
    failures = read_failures(output)
    lost = {(row.question_id, row.mode) for row in failures}
    assert {row.question_id for row in failures} == {"inter/take2/2"}
    assert {row.reason for row in failures} == {reason}
    assert detail in failures[0].detail
    assert {(row.question_id, row.mode) for row in read_predictions(output)}.isdisjoint(lost)
    assert len(read_predictions(output)) + len(lost) == 3 * NUM_QUESTIONS
    for mode in {mode for _, mode in lost}:
        row = scored(output, mode)
        assert (row["num_scored"], row["num_failed"], row["num_questions"]) == (5, 1, 6)
    assert run(StubModel(), setup, output, monkeypatch) == 0
    assert run(StubModel(), setup, whole, monkeypatch, HALF) == 0
    assert answers(output) == answers(whole)
    for report in ("results.json", "results.csv", "results.md", "results.tex", "report.html"):
        assert (output / report).read_bytes() == (whole / report).read_bytes()
    capsys.readouterr()
    assert run(StubModel(faults), setup, tmp_path / "strict", monkeypatch) == EvaluationError.exit_code
    message = said(capsys)
    assert "1 of 6 questions cannot be answered" in message
    assert f"question inter/take2/2 ({next(iter(row.mode for row in failures))}): " in message
    assert len(read_predictions(tmp_path / "strict")) >= 6, "what was answered before is kept"


def test_after_a_fault_the_clip_is_encoded_again(setup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a failing pass left in a model's cache must not reach the next question."""
    model = StubModel({("score", 0): raising(RuntimeError("in the middle of a pass"))})
    assert run(model, setup, tmp_path, monkeypatch, HALF) == 0
    assert model.calls["encode"] == NUM_QUESTIONS + 1


def test_a_clip_that_cannot_be_encoded_is_tried_once(
    setup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = StubModel({("encode", 0): raising(MemoryError())})
    assert run(model, setup, tmp_path, monkeypatch, HALF) == 0
    assert model.calls == {"encode": NUM_QUESTIONS, "score": 2 * (NUM_QUESTIONS - 1), "generate": NUM_QUESTIONS - 1}
    assert {(row.mode, row.reason) for row in read_failures(tmp_path)} == {
        (mode, "out_of_memory") for mode in ("likelihood", "letter", "generate")
    }


def test_a_model_that_fails_at_every_clip_is_stopped_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setup = write_questions(tmp_path / "setup", one_clip_each(14))
    model = StubModel({("encode", -1): raising(RuntimeError("CUDA error: device-side assert triggered"))})
    assert run(model, setup, tmp_path / "out", monkeypatch, "max_failure_rate=1") == EvaluationError.exit_code
    assert "the model answered nothing about 10 clips in a row" in said(capsys)
    assert model.calls["encode"] == LONGEST_ROW_OF_FAULTS


@pytest.mark.parametrize(
    "text", ["", " \n", "I would rather not say.", "(Z)", "\ud800 of a character", "<script>alert(1)</script>"]
)
def test_text_that_names_no_option_is_wrong_and_counted(
    setup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    assert run(StubModel(text=text), setup, tmp_path, monkeypatch) == 0
    row = scored(tmp_path, "generate")
    assert (row["accuracy"], row["num_unparsed"], row["num_scored"]) == (0.0, NUM_QUESTIONS, NUM_QUESTIONS)


def test_a_dry_run_names_the_fault(
    setup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = StubModel({("score", 0): lambda: [[NAN] * 5]})
    assert run(model, setup, tmp_path, monkeypatch, "--dry-run") == EvaluationError.exit_code
    assert "question inter/take0/0 (likelihood): option scores are not finite" in said(capsys)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (question_row(0, version=2), "question 1 is not an EgoBench record: version: Input should be 1"),
        ({**question_row(0), "choices": []}, "not an EgoBench record: choices: Extra inputs are not permitted"),
        (question_row(0, start="soon"), "not an EgoBench record: start"),
        (question_row(0, start=2.0, end=1.0), "expected 0 <= start <= end in seconds"),
        ({"q_uid": "of the raw file"}, "not an EgoBench record: id: Field required"),
    ],
)
def test_a_question_file_of_another_version_is_named(
    setup: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    row: dict[str, Any],
    message: str,
) -> None:
    path = tmp_path / "of_tomorrow.jsonl"
    path.write_text(json.dumps(row) + "\n")
    out = tmp_path / "out"
    assert run(StubModel(), setup, out, monkeypatch, f"data.questions={path}") == DataError.exit_code
    told = said(capsys)
    assert message in told
    assert "of_tomorrow.jsonl" in told
    assert not out.exists()


def test_options_that_repeat_are_told_and_cannot_be_right_by_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both have the best score, or both are what the model says: neither is chosen, whichever is true."""
    rows = one_clip_each(4, options=["C pours", "C opens the box", "C pours."], answer_index=0)
    setup = write_questions(tmp_path / "setup", rows)
    same = StubModel({("score", -1): lambda: [[-1.0, -2.0, -1.0]]}, text="C pours")
    assert run(same, setup, tmp_path / "out", monkeypatch) == 0
    assert "4 of 4 questions give an option twice, the first is inter/take0/0" in said(capsys)
    for mode in ("likelihood", "generate"):
        row = scored(tmp_path / "out", mode)
        assert (row["accuracy"], row["num_unparsed"]) == (0.0, 4)


def test_ids_may_hold_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [
        "a/b\\c",
        "ü → 漢字 🎥",
        "tab\tline\nbreak\r\x0b\x1c\u2028",
        '"quoted" {json}',
        "../../etc/passwd",
        " ",
        "x" * 5000,
    ]
    rows = [{**row, "id": name} for row, name in zip(one_clip_each(len(ids)), ids, strict=True)]
    setup = write_questions(tmp_path / "setup", rows)
    assert run(StubModel(), setup, tmp_path / "out", monkeypatch) == 0
    assert {row.question_id for row in read_predictions(tmp_path / "out")} == set(ids)
    again = StubModel()
    assert run(again, setup, tmp_path / "out", monkeypatch) == 0
    assert not again.calls, "a finished run has nothing left to do"


def test_half_a_character_in_a_question_file_is_named(
    setup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps(question_row(0, question="\ud83d")) + "\n")
    assert run(StubModel(), setup, tmp_path / "out", monkeypatch, f"data.questions={path}") == DataError.exit_code
    assert "questions.jsonl: question 1 holds half a character" in said(capsys)


def test_a_decoder_that_hangs_is_given_up(
    setup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import threading

    over = threading.Event()
    read_span = shown_clips.read_span

    def hanging(root: Path, span: Span, num_frames: int) -> Any:
        if "take1" in span.video:
            over.wait(60)
        return read_span(root, span, num_frames)

    monkeypatch.setattr(shown_clips, "read_span", hanging)
    monkeypatch.setattr(egobench, "AnswerPlan", lambda **values: AnswerPlan(**values, longest_read_s=3))
    monkeypatch.setattr("eval.reading_ahead.GOODBYE_S", 0.1)
    assert run(StubModel(), setup, tmp_path, monkeypatch, HALF) == 0
    over.set()
    assert {(row.question_id, row.reason) for row in read_failures(tmp_path)} == {
        (f"inter/take1/{number}", "timeout") for number in (1, 4)
    }
    assert "was not read within 3 s" in read_failures(tmp_path)[0].detail
    assert len(read_predictions(tmp_path)) == 3 * 4


def test_several_processes_have_one_budget(tmp_path: Path) -> None:
    """Two processes that each may fail at one question would fail at two of the run's."""
    from eval.failures import Failure
    from eval.predictions import PredictionStore, claim
    from exo2ego.records import Question

    asked = [Question.model_validate(row) for row in one_clip_each(4)]
    claim(tmp_path, {}, {}, asked)
    with PredictionStore(tmp_path, {}, {}, part=0) as one, PredictionStore(tmp_path, {}, {}, part=1) as other:
        for store, name, expected in ((one, "a", 1), (other, "b", 2), (one, "b", 2), (one, "c", 3)):
            store.fail(Failure(id=name, task="t", mode="letter", video="v", reason="missing", detail=""))
            assert store.count_failed() == expected
