"""Results from output folders: the same bytes again, what is counted, and what is refused."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import exo2ego
from eval import report
from eval.reporting.open_measures import JudgeAgreement
from eval.reporting.results import read_results
from eval.reporting.run_folder import read_run
from exo2ego.errors import ConfigError, DataError, EvaluationError
from exo2ego.storage import read_json, read_jsonl, write_json, write_jsonl
from tests.conftest import RunPython
from tests.eval.result_folder import question, write_run

FILES = ("results.json", "results.csv", "results.md", "results.tex", "report.html")


def rewrite(folder: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    rows = change(list(read_jsonl(folder / "predictions.jsonl")))
    path = folder / "predictions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_the_same_files_give_the_same_bytes_wherever_they_lie(
    tmp_path: Path, run_python: RunPython, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_run(tmp_path / "first", modes=("likelihood", "generate"), num_questions=12)
    second = tmp_path / "elsewhere" / "second"
    shutil.copytree(first, second)
    rewrite(second, lambda rows: rows[::-1])
    done = run_python("-m", "eval.report", str(first))
    assert done.returncode == 0, done.stderr
    assert "| egoplan | likelihood | accuracy |" in done.stdout
    for name, value in {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C"}.items():
        monkeypatch.setenv(name, value)
    done = run_python("-m", "eval.report", str(second))
    assert done.returncode == 0, done.stderr
    for name in FILES:
        content = (first / name).read_bytes()
        assert content == (second / name).read_bytes(), name
        assert str(tmp_path).encode() not in content
        assert b"/somewhere" not in content
        assert b"2026-01-01" not in content


def test_results_carry_what_made_them(tmp_path: Path) -> None:
    write_run(tmp_path, tasks=["egoplan"], num_questions=5)
    report.main([str(tmp_path)])
    (run,) = read_json(tmp_path / "results.json")["runs"]
    identity = run["identity"]
    assert run["name"] == "stage3"
    assert identity["settings"]["model"] == "a" * 64
    assert identity["settings"]["prompt_texts"] == "b" * 64
    assert identity["config"] == {"model": "stage3", "modes": ["likelihood"]}
    assert identity["code"]["commit"] == "c" * 40
    assert identity["inputs"] == {"questions.jsonl": "d" * 64}
    assert len(identity["prompts_answered"]) == 64


def test_configurations_keep_addresses_and_lose_places(tmp_path: Path) -> None:
    write_run(tmp_path, tasks=["egoplan"], num_questions=3)
    description = read_json(tmp_path / "run.json")
    config = {
        "model": "clip:/models/big",
        "clip_store": "/stores/one",
        "endpoint": {"base_url": "http://localhost:8000/v1", "cache": "/tmp/cache", "timeout_s": 60.0},
    }
    description["provenance"] |= {"config": config, "model": {"encoder": "CLIP-L-336", "language_model": "Mistral-7B"}}
    write_json(tmp_path / "run.json", description)
    (run,) = read_results([tmp_path]).runs
    assert run.name == "big"
    assert run.identity["config"] == {
        "model": "clip:big",
        "clip_store": "one",
        "endpoint": {"base_url": "http://localhost:8000/v1", "cache": "cache", "timeout_s": 60.0},
    }
    report.main([str(tmp_path)])
    row = "| **big** | **16** | **ZS** | **likelihood** |"
    assert row in (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "CLIP-L-336" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_average_and_its_interval(tmp_path: Path) -> None:
    write_run(tmp_path, modes=("likelihood",), skill=0.4)
    (run,) = read_results([tmp_path]).runs
    (average,) = run.averages
    printed = [score.printed for score in run.scores]
    assert average.value == pytest.approx(sum(one.value for one in printed if one) / 10)
    assert average.chance == pytest.approx(sum(one.chance or 0 for one in printed if one) / 10)
    assert average.interval is not None
    widths = [one.interval.high - one.interval.low for one in printed if one and one.interval]
    assert average.interval.low < average.value < average.interval.high
    assert average.interval.high - average.interval.low < min(widths), "ten tasks say more than one"
    assert all(value is not None for value in average.axes.values())


def test_repeated_options_are_counted(tmp_path: Path) -> None:
    write_run(tmp_path, tasks=["egoplan"], num_questions=3)
    assert read_results([tmp_path]).runs[0].warnings == []
    rows = list(read_jsonl(tmp_path / "questions.jsonl"))
    rows[0]["options"][1] = f"{rows[0]['options'][0].upper()} ."
    rows[1]["options"][-1] = rows[1]["options"][0]
    write_jsonl(tmp_path / "questions.jsonl", rows)
    (warning,) = read_results([tmp_path]).runs[0].warnings
    assert warning.startswith("2 questions give an option twice")


def test_fewer_than_ten_tasks_have_no_average(tmp_path: Path) -> None:
    write_run(tmp_path, tasks=["egoplan", "egomcq_inter"], num_questions=5)
    (average,) = read_results([tmp_path]).runs[0].averages
    assert average.value is None
    assert average.interval is None
    assert len(average.missing) == 8
    assert average.axes["EgoPlan"] is not None
    assert average.axes["EgoMCQ"] is None


def test_a_cut_file_is_counted_and_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, tasks=["egoplan"], num_questions=10)
    whole = (tmp_path / "predictions.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in (1, len(lines[-1]) // 2, len(lines[-1]) - 2):
        (tmp_path / "predictions.jsonl").write_bytes(b"".join(lines[:-1]) + lines[-1][:cut])
        found = read_run(tmp_path)
        assert (len(found.predictions), found.num_cut) == (9, 1)
        assert report.main([str(tmp_path)]) == 0
        said = capsys.readouterr().out
        assert "half written" in said
        assert "unfinished: egoplan (likelihood) has 9 of 10 questions done" in said
    (tmp_path / "predictions.jsonl").write_bytes(whole[:-1])
    assert (len(read_run(tmp_path).predictions), read_run(tmp_path).num_cut) == (10, 0)


def test_the_parts_of_several_processes_are_read(tmp_path: Path) -> None:
    write_run(tmp_path, tasks=["egoplan"], num_questions=10)
    whole = read_results([tmp_path]).runs[0]
    lines = (tmp_path / "predictions.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "predictions.jsonl").write_bytes(b"".join(lines[:3]))
    (tmp_path / "predictions.jsonl.part-0").write_bytes(b"".join(lines[2:6]))  # killed while it was put together
    (tmp_path / "predictions.jsonl.part-1").write_bytes(b"".join(lines[6:]))
    assert read_results([tmp_path]).runs[0] == whole
    (tmp_path / "predictions.jsonl.part-1").write_bytes(b"".join(lines[6:])[:-5])
    found = read_run(tmp_path)
    assert (len(found.predictions), found.num_cut) == (9, 1)


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    write_run(tmp_path, tasks=["egoplan", "vlnqa", "egoschema"], num_questions=10)
    rewrite(tmp_path, lambda rows: [row for row in rows if row["task"] != "vlnqa"][:14])
    (run,) = read_results([tmp_path]).runs
    assert {score.task: score.num_unanswered for score in run.scores} == {"egoplan": 0, "egoschema": 6}
    assert run.warnings == [
        "unfinished: egoschema (likelihood) has 4 of 10 questions done",
        "unfinished: no answers yet to vlnqa",
    ]


def test_predictions_for_unknown_questions_are_left_out(tmp_path: Path) -> None:
    write_run(tmp_path, tasks=["egoplan"], num_questions=10)
    before = read_results([tmp_path]).runs[0].scores
    rewrite(tmp_path, lambda rows: [*rows, {**rows[0], "id": "egoplan/unknown"}])
    (run,) = read_results([tmp_path]).runs
    assert run.scores == before
    assert run.warnings == ["1 predictions are for questions that were not asked; they are left out"]


def test_predictions_alone_can_be_scored(tmp_path: Path) -> None:
    write_run(tmp_path, tasks=["egoplan"], num_questions=10)
    whole = read_results([tmp_path]).runs[0].scores[0]
    for name in ("questions.jsonl", "run.json", "failures.jsonl"):
        (tmp_path / name).unlink()
    (run,) = read_results([tmp_path]).runs
    assert run.name == tmp_path.name
    assert run.scores[0].measures == whole.measures
    assert len(run.warnings) == 2
    assert report.main([str(tmp_path)]) == 0


def with_first(**changes: Any) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda rows: [{**rows[0], **changes}, *rows[1:]]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda rows: [*rows, rows[0]], DataError, "two predictions"),
        (with_first(option_scores=[math.nan, 1, 2, 3]), EvaluationError, r"egoplan/0 \(likelihood\): .*not finite"),
        (with_first(option_scores=[1, 2, 3]), EvaluationError, "3 scores for 4 options"),
        (with_first(predicted_index=4), EvaluationError, "predicted_index 4 is not one of its 4"),
        (with_first(num_options=5, option_scores=None), EvaluationError, "files of two runs"),
        (with_first(task="vlnqa"), EvaluationError, "files of two runs"),
        (with_first(mode="guess"), DataError, "row 1 is not a Prediction"),
    ],
)
def test_damaged_predictions_are_refused(tmp_path: Path, change: Any, error: type[Exception], message: str) -> None:
    write_run(tmp_path, tasks=["egoplan"], num_questions=4)
    rewrite(tmp_path, change)
    with pytest.raises(error, match=message):
        read_run(tmp_path)


def test_a_truth_that_changed_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, tasks=["egoplan"], num_questions=4)
    rows = list(read_jsonl(tmp_path / "questions.jsonl"))
    write_jsonl(tmp_path / "questions.jsonl", [{**rows[0], "answer_index": None}, *rows[1:]])
    with pytest.raises(EvaluationError, match="files of two runs"):
        read_run(tmp_path)


def test_a_folder_without_predictions_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(tmp_path)]) == DataError.exit_code
    assert "holds no predictions.jsonl" in capsys.readouterr().err


def test_controls_are_recognised_and_no_model_s_row(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    write_run(tmp_path / "blind", blind=True, skill=0)
    write_run(tmp_path / "both", blind=True, shuffle_frames=True, skill=0)
    results = read_results([tmp_path / "run", tmp_path / "blind", tmp_path / "both"], ["a", "b", "c"])
    assert [run.title for run in results.runs] == ["a", "b (blind)", "c (blind) (shuffled frames)"]
    assert read_results([tmp_path / "blind"], ["blind"]).runs[0].title == "blind"
    lines = report.markdown(results).splitlines()
    assert any(line.startswith("| **a, likelihood** | **") for line in lines)
    assert any(line.startswith("| b (blind), likelihood |") for line in lines)


def test_runs_have_different_names(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, tasks=["egoplan"], num_questions=3) for name in ("x", "y")]
    assert [run.name for run in read_results(folders).runs] == ["stage3 in x", "stage3 in y"]
    repeated = [run.name for run in read_results([folders[0]] * 2).runs]
    assert repeated == [f"stage3 in {tmp_path.name}/x #1", f"stage3 in {tmp_path.name}/x #2"]
    for names in (["a"], ["a", "a"], ["a", "b", "c"]):
        with pytest.raises(ConfigError, match="2 different names"):
            read_results(folders, names)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("runs/exp7/checkpoints/step_000200", "exp7/checkpoints/step_000200"),
        ("runs/exp7/export/", "exp7/export"),
        ("qwen_vl:Qwen/Qwen2-VL-7B-Instruct", "Qwen2-VL-7B-Instruct"),
        ("open_clip:ViT-L-14@/weights/laion.safetensors", "ViT-L-14@laion"),
        ("endpoint:gpt-4o", "gpt-4o"),
        ("final", "final"),
    ],
)
def test_runs_are_named_for_their_models(tmp_path: Path, model: str, name: str) -> None:
    folder = write_run(tmp_path, tasks=["egoplan"], num_questions=3, model=model)
    (run,) = read_results([folder]).runs
    assert run.name == name
    assert "/weights" not in json.dumps(run.identity), "no place on a disk in a report"


def test_a_stored_run_gives_the_stored_numbers(tmp_path: Path) -> None:
    """A change of scoring that changes numbers must be meant: then write the CSV anew and say so in the change log."""
    stored = Path(__file__).with_name("stored_run")
    assert report.main([str(stored), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "results.csv").read_bytes() == (stored / "expected_results.csv").read_bytes()


def test_a_folder_of_another_version_says_so(tmp_path: Path) -> None:
    write_run(tmp_path, tasks=["egoplan"], num_questions=4, exo2ego="0.0.7")
    (run,) = read_results([tmp_path]).runs
    assert run.warnings == [f"answered with exo2ego 0.0.7, scored with {exo2ego.__version__}"]
    rewrite(tmp_path, lambda rows: [{key: value for key, value in rows[0].items() if key != "prompt_hash"}])
    with pytest.raises(DataError, match=r"row 1 is not a Prediction .*prompt_hash: .*another version .*evaluate again"):
        read_run(tmp_path)


def test_no_predictions_yet_is_a_report_too(tmp_path: Path) -> None:
    write_run(tmp_path, tasks=["egoplan"], num_questions=4)
    (tmp_path / "predictions.jsonl").write_text("")
    assert report.main([str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "unfinished: no answers yet to egoplan" in page


def test_cosines_have_no_calibration(tmp_path: Path) -> None:
    write_run(tmp_path, tasks=["egoplan"], num_questions=20)
    description = read_json(tmp_path / "run.json")
    parts = {"encoder": None, "language_model": None, "scores": "cosine similarities"}
    description["provenance"]["model"] = parts
    write_json(tmp_path / "run.json", description)
    assert report.main([str(tmp_path)]) == 0
    found = read_json(tmp_path / "results.json")
    assert [row["calibration"] for row in found["results"]] == [None]
    assert found["runs"][0]["no_calibration"] == "its option scores are cosine similarities, not log-probabilities"
    for name in ("results.md", "report.html"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "has no calibration: its option scores are cosine similarities" in text
    assert 'class="reliability"' not in text
    assert not re.search(r"\d %</span>", text), "no confidence beside an answer"


def test_several_folders_need_a_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(write_run(tmp_path / name, tasks=["egoplan"], num_questions=3)) for name in ("x", "y")]
    assert report.main(folders) == ConfigError.exit_code
    assert "give --out" in capsys.readouterr().err
    assert report.main([*folders, "--out", str(tmp_path / "out"), "--names", "new,old"]) == 0
    assert {row["run"] for row in read_json(tmp_path / "out" / "results.json")["results"]} == {"new", "old"}
    assert not (tmp_path / "x" / "results.json").exists()


def test_open_answers_are_scored_by_what_was_run_on_them(tmp_path: Path) -> None:
    asked = [question("qaego4d_open", n, options=[], answer_index=None) for n in range(8)]
    folder = write_run(tmp_path, questions=[], tasks=[])
    write_jsonl(folder / "questions.jsonl", asked)
    rows = [
        {
            "id": row["id"],
            "task": row["task"],
            "mode": "generate",
            "prompt_hash": "h",
            "num_options": 0,
            "video": row["video"],
            "seconds": 0.1,
            "raw_output": "on the table",
        }
        for row in asked
    ]
    write_jsonl(folder / "predictions.jsonl", rows)
    (score,) = read_results([folder]).runs[0].scores
    assert (score.accuracy, score.num_unparsed, score.num_unlabelled, score.measures) == (None, 0, 0, [])
    verdicts = [
        {"question_id": row["id"], "is_correct": n < 4 if n else None, "score": 4 if n else None}
        for n, row in enumerate(asked)
    ]
    write_json(folder / "judgements.json", {"judge": {"model": "judge-1"}, "summary": {}, "judgements": verdicts})
    (run,) = read_results([folder]).runs
    values = {one.name: (one.value, one.count) for one in run.scores[0].measures}
    assert values == {"judge_accuracy": (pytest.approx(3 / 7), 7), "judge_score": (pytest.approx(4 / 5), 7)}
    assert run.identity["judge"] == {"model": "judge-1"}
    assert run.judge_agreement is None, "the rule has not been asked"
    likeness = {"rouge_l": 0.5, "meteor": 0.5, "similarity": None}
    scores = [{"question_id": row["id"], "exact_match": float(n < 2), **likeness} for n, row in enumerate(asked)]
    write_json(folder / "open_scores.json", {"scores": scores})
    (run,) = read_results([folder]).runs
    assert run.judge_agreement == JudgeAgreement(count=7, num_equal=5, num_exact=1, num_exact_accepted=1)
    report.main([str(folder)])
    text = (folder / "results.md").read_text(encoding="utf-8")
    assert "Scored by rule and by a judge: QAEgo4D (open)." in text
    assert "the judge judge-1 and exact match agree on 5 of 7 answers (71.4 %); of 1 exact matches it accepts 1" in text
    assert read_json(folder / "results.json")["results"][0]["rule_or_judge"] == "both"
    page = (folder / "report.html").read_text(encoding="utf-8")
    first = page[page.index("<article") : page.index("</article>")]
    assert "judge: no, 4 of 5 · exact_match 0.00" in first, "what the judge rejects comes first"
    assert "**42.9/4.0 (" in text
    verdicts[0]["question_id"] = "qaego4d_open/unknown"
    write_json(folder / "judgements.json", {"judge": {}, "summary": {}, "judgements": verdicts})
    with pytest.raises(DataError, match="not in questions"):
        read_results([folder])
    write_json(folder / "judgements.json", {"judge": {}, "judgements": [{"question_id": asked[0]["id"]}]})
    with pytest.raises(DataError, match="has no is_correct; make the file again"):
        read_results([folder])
