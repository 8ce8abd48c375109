"""Paired comparisons of runs, and what is refused; the statistics: `test_paired_differences.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eval import compare as command
from eval.compare import compare
from eval.reporting.run_folder import read_run
from exo2ego.errors import EvaluationError
from exo2ego.storage import read_jsonl, write_jsonl
from tests.conftest import RunPython
from tests.eval.result_folder import question, write_run


def test_two_runs_and_the_average(tmp_path: Path, run_python: RunPython) -> None:
    write_run(tmp_path / "a", skill=0.9, num_questions=40, seed=1)
    write_run(tmp_path / "b", skill=0.2, num_questions=40, seed=2)
    done = run_python("-m", "eval.compare", str(tmp_path / "a"), str(tmp_path / "b"))
    assert done.returncode == 0, done.stderr
    (average,) = [line for line in done.stdout.splitlines() if line.startswith("| average |")]
    assert average.endswith("| resolved |")
    found = compare(read_run(tmp_path / "a"), read_run(tmp_path / "b"))
    rows = {row.task: row for row in found.rows}
    assert len(rows) == 11
    assert rows["average"].difference == pytest.approx(
        sum(row.difference for row in found.rows if row.task != "average") / 10
    )
    assert rows["charades_ego"].measure == "option_mAP"
    turned = compare(read_run(tmp_path / "b"), read_run(tmp_path / "a"))
    for row, other in zip(found.rows, turned.rows, strict=True):
        assert row.difference == pytest.approx(-other.difference)
        assert (row.only_first, row.only_second, row.p_value) == (other.only_second, other.only_first, other.p_value)
        assert row.is_resolved == other.is_resolved
    assert compare(read_run(tmp_path / "a"), read_run(tmp_path / "b")) == found


def test_a_run_does_not_differ_from_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, tasks=["egoplan"], num_questions=20)
    assert command.main([str(tmp_path), str(tmp_path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["difference"], row["p_value"], row["is_resolved"]) == (0, 1, False)
    assert row["interval"]["low"] == -row["interval"]["high"] < 0


def test_both_the_interval_and_the_test_must_speak(tmp_path: Path) -> None:
    """Five of fifty questions better and none worse, one per video: the interval leaves out 0, p is .0625."""
    asked = [question("egoplan", n, video=f"{n}.mp4", answer_index=0) for n in range(50)]
    for name, num_wrong in (("a", 0), ("b", 5)):
        write_run(tmp_path / name, questions=asked)
        rows = list(read_jsonl(tmp_path / name / "predictions.jsonl"))
        write_jsonl(
            tmp_path / name / "predictions.jsonl",
            [{**row, "option_scores": None, "predicted_index": int(n < num_wrong)} for n, row in enumerate(rows)],
        )
    (row,) = compare(read_run(tmp_path / "a"), read_run(tmp_path / "b")).rows
    assert row.interval.low > 0
    assert row.p_value == pytest.approx(0.0625)
    assert not row.is_resolved


def test_neither_does_the_test_speak_alone(tmp_path: Path) -> None:
    """Twenty questions better and none worse, but all about two videos: p is tiny, the interval holds 0."""
    asked = [question("egoplan", n, video=f"{n % 2}.mp4", answer_index=0) for n in range(20)]
    for name, choice in (("a", 0), ("b", 1)):
        write_run(tmp_path / name, questions=asked)
        rows = list(read_jsonl(tmp_path / name / "predictions.jsonl"))
        write_jsonl(
            tmp_path / name / "predictions.jsonl",
            [{**row, "option_scores": None, "predicted_index": choice} for row in rows],
        )
    (row,) = compare(read_run(tmp_path / "a"), read_run(tmp_path / "b")).rows
    assert row.p_value is not None
    assert row.p_value < 1e-5
    assert row.interval.low < 0
    assert not row.is_resolved


@pytest.mark.parametrize(
    "change", [{"options": ["C", "D", "E", "F"]}, {"id": "egoplan/other"}, {"video": "x.mp4"}, {"question": "Why?"}]
)
def test_other_questions_are_refused_or_left_out(tmp_path: Path, change: dict[str, Any]) -> None:
    asked = [question("egoplan", n) for n in range(20)]
    write_run(tmp_path / "a", questions=asked)
    write_run(tmp_path / "b", questions=[*asked[:-1], {**asked[-1], **change}])
    first, second = read_run(tmp_path / "a"), read_run(tmp_path / "b")
    with pytest.raises(EvaluationError, match="asked different questions: 19 are the same"):
        compare(first, second)
    found = compare(first, second, common=True)
    assert found.rows[0].num_questions == 19
    assert found.num_left_out == (2 if "id" in change else 1)


def test_without_an_equal_question_no_other_flag_is_advised(tmp_path: Path) -> None:
    for name, video in (("a", "x.mp4"), ("b", "y.mp4")):
        write_run(tmp_path / name, questions=[question("egoplan", n, video=video) for n in range(3)])
    for common in (False, True):
        with pytest.raises(EvaluationError, match="have no question in common: 3 are") as caught:
            compare(read_run(tmp_path / "a"), read_run(tmp_path / "b"), common=common)
        assert "--common" not in str(caught.value)


def test_several_are_compared_with_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place, name in enumerate("abc"):
        write_run(tmp_path / name, tasks=["egoplan", "charades_ego"], num_questions=20, seed=place)
    paths = [str(tmp_path / name) for name in "abc"]
    assert command.main([*paths, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["names"] for one in found] == [["stage3 in a", "stage3 in b"], ["stage3 in a", "stage3 in c"]]
    assert [row["task"] for row in found[0]["rows"]] == ["charades_ego", "egoplan"], "in the paper's order"
    assert command.main(paths) == 0
    said = capsys.readouterr().out
    assert said.count("| egoplan |") == 2
    assert "Not resolved does not mean equal" in said
    assert "for other measures the interval alone decides" in said


def test_a_mode_of_one_run_alone_is_named(tmp_path: Path) -> None:
    write_run(tmp_path / "a", tasks=["egoplan"], num_questions=20, modes=("likelihood", "generate"))
    write_run(tmp_path / "b", tasks=["egoplan"], num_questions=20, modes=("letter", "likelihood"))
    found = compare(read_run(tmp_path / "a"), read_run(tmp_path / "b"))
    assert [row.mode for row in found.rows] == ["likelihood"]
    assert found.modes_left_out == ["letter", "generate"]
    assert found.num_unpaired == 0
    assert "one of them alone answered so: letter, generate." in command.text(found)


def test_answers_of_one_run_alone_are_left_out_and_counted(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name, tasks=["egoplan"], num_questions=20)
    rows = list(read_jsonl(tmp_path / "b" / "predictions.jsonl"))
    write_jsonl(tmp_path / "b" / "predictions.jsonl", rows[:13])
    found = compare(read_run(tmp_path / "a"), read_run(tmp_path / "b"))
    assert (found.rows[0].num_questions, found.num_unpaired) == (13, 7)
    assert "7 answers are left out" in command.text(found)


def test_nothing_to_compare_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "a", tasks=["egoplan"], num_questions=5, modes=("likelihood",))
    write_run(tmp_path / "b", tasks=["egoplan"], num_questions=5, modes=("generate",))
    assert command.main([str(tmp_path / "a"), str(tmp_path / "b")]) == EvaluationError.exit_code
    said = " ".join(capsys.readouterr().err.split())
    assert "no labelled answers to the same questions in the same mode" in said
    assert "modes of the first: likelihood; of the second: generate" in said
    (tmp_path / "a" / "questions.jsonl").unlink()
    assert command.main([str(tmp_path / "a"), str(tmp_path / "b")]) == EvaluationError.exit_code
    assert "not known what was asked" in capsys.readouterr().err
