"""Answers that another framework collected: read by our rules, scored as our own, faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas  # type: ignore[import-untyped]
import pytest

from eval import import_answers
from eval.lmms_eval_plugin.answers import score_letter, score_open
from eval.lmms_eval_plugin.questions import document
from eval.report import write_report
from exo2ego.records import Question
from exo2ego.storage import read_json, read_jsonl, write_jsonl
from tests.eval.evaluation_setup import question_row

ROWS = [
    *(question_row(number, task="vlnqa") for number in range(4)),
    question_row(9, task="qaego4d_open", options=[], answer_index=None, answer_text="the red cup"),
]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    for task in ("vlnqa", "qaego4d_open"):
        write_jsonl(tmp_path / "egobench" / f"{task}.jsonl", (row for row in ROWS if row["task"] == task))
    return tmp_path / "egobench"


def run(folder: Path, questions: Path, *files: Path) -> int:
    options = ["--questions", str(questions), "--out", str(folder / "out"), "--model", "theirs"]
    return import_answers.main([*map(str, files), *options])


def write_table(path: Path, outputs: list[str]) -> Path:
    """Writes what VLMEvalKit does: the columns of its data set and `prediction`."""
    rows = [{"index": n, "id": ROWS[n]["id"], "prediction": text} for n, text in enumerate(outputs)]
    pandas.DataFrame(rows).to_csv(path, sep="\t" if path.suffix == ".tsv" else ",", index=False)
    return path


@pytest.mark.parametrize("name", ["model_EgoBench_vlnqa.tsv", "model_EgoBench_vlnqa.csv"])
def test_a_table_of_predictions_is_read_by_the_strict_rules(questions: Path, tmp_path: Path, name: str) -> None:
    table = write_table(tmp_path / name, ["A", "None of them", "C. It is right", "NA"])
    assert run(tmp_path, questions, table) == 0
    found = list(read_jsonl(tmp_path / "out" / "predictions.jsonl"))
    assert [row["predicted_index"] for row in found] == [0, None, 2, None]
    assert [row["raw_output"] for row in found] == ["A", "None of them", "C. It is right", "NA"]
    write_report(tmp_path / "out")
    (result,) = read_json(tmp_path / "out" / "results.json")["results"]
    assert (result["accuracy"], result["num_unparsed"], result["num_questions"]) == (0.5, 2, 4)


def test_what_is_missing_is_counted_and_not_scored(questions: Path, tmp_path: Path) -> None:
    assert run(tmp_path, questions, write_table(tmp_path / "part.tsv", ["A", "A"])) == 0
    write_report(tmp_path / "out")
    (result,) = read_json(tmp_path / "out" / "results.json")["results"]
    assert (result["num_scored"], result["num_unanswered"]) == (2, 2)


def test_where_a_service_failed_there_is_no_answer(questions: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "some.tsv", ["A", "Failed to obtain answer via API.", "C", "A"])
    assert run(tmp_path, questions, table) == 0
    write_report(tmp_path / "out")
    (result,) = read_json(tmp_path / "out" / "results.json")["results"]
    assert (result["num_scored"], result["num_failed"], result["num_unparsed"]) == (3, 1, 0)


def test_a_log_of_lmms_eval_keeps_scores_and_open_answers(questions: Path, tmp_path: Path) -> None:
    docs = [document(Question.model_validate(row)) for row in ROWS]
    losses = [[2.0, 1.0, 3.0, 4.0, 5.0 + number] for number in range(4)]
    samples: list[dict[str, Any]] = [
        score_letter(doc, [str((loss, False)) for loss in own]) for doc, own in zip(docs, losses, strict=False)
    ]
    samples.append(score_open(docs[-1], ["a red cup"]))
    log = tmp_path / "20260101_samples_egobench.jsonl"
    log.write_text("\n".join(map(json.dumps, samples)), encoding="utf-8")
    assert run(tmp_path, questions, log) == 0
    found = {(row["id"], row["mode"]): row for row in read_jsonl(tmp_path / "out" / "predictions.jsonl")}
    for row, own in zip(ROWS, losses, strict=False):
        assert found[row["id"], "letter"]["option_scores"] == [-loss for loss in own]
        assert found[row["id"], "letter"]["predicted_index"] == 1
    assert found[ROWS[-1]["id"], "generate"]["raw_output"] == "a red cup"
    assert run(tmp_path, questions, log) == 0  # again: nothing is added
    assert len(list(read_jsonl(tmp_path / "out" / "predictions.jsonl"))) == len(ROWS)


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("index\tanswer\n0\tA\n", 3, "nor has it `id` and `prediction`"),
        ("id\tprediction\nvlnqa/unknown\tA\n", 5, "is to question vlnqa/unknown"),
        ("id\tprediction\n{id}\tA\n{id}\tB\n", 5, "questions are answered twice"),
        ("", 3, "cannot be read as a table"),
    ],
)
def test_what_is_no_answer_is_refused(
    questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, code: int, message: str
) -> None:
    (tmp_path / "wrong.tsv").write_text(text.replace("{id}", ROWS[0]["id"]), encoding="utf-8")
    assert run(tmp_path, questions, tmp_path / "wrong.tsv") == code
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_log_of_another_task_is_refused(questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(tmp_path / "log.jsonl", [{"doc_id": 0, "filtered_resps": "A", "exact_match": 1.0}])
    assert run(tmp_path, questions, tmp_path / "log.jsonl") == 3
    assert "is neither a sample of the egobench tasks" in " ".join(capsys.readouterr().err.split())
