"""The real lmms-eval, in its own environment: our model gives our evaluator's numbers, its models run on our tasks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pytest

from eval import clip_files, egobench, import_answers
from eval.answerers.exo2ego import Exo2EgoAnswerer
from eval.metrics.option_ranking import score_by_choice
from eval.questions import DataOptions, question_files, read_questions
from eval.report import write_report
from eval.tasks import AVERAGED, TASKS
from exo2ego.data.spans import Span
from exo2ego.data.video import read_frames
from exo2ego.records import Prediction, Question
from exo2ego.storage import read_json, read_jsonl
from tests.eval.lmms_eval_setup import QUESTIONS_PER_TABLE, read_samples, write_benchmark
from tests.eval.tiny_families import qwen2_5_vl
from tests.shared_data import REPOSITORY

pytestmark = pytest.mark.slow

SCRIPT = REPOSITORY / "scripts" / "lmms_eval.sh"
TASKS_FOLDER = REPOSITORY / "eval" / "lmms_eval_plugin" / "tasks"
ENVIRONMENT = REPOSITORY / ".venv-lmms-eval"
PREFIXES = {"generate": "egobench", "letter": "egobench_letter", "likelihood": "egobench_likelihood"}
OTHER_TASK = """\
task: other_video_task
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: generate_until
generation_kwargs: {max_new_tokens: 8, until: []}
doc_to_visual: !function functions.shown
doc_to_text: question
doc_to_target: id
process_results: !function functions.results
metric_list: [{metric: answer, aggregation: !function functions.count, higher_is_better: true}]
"""
OTHER_FUNCTIONS = """\
def shown(doc): return [doc["video"]]
def results(doc, results): return {"answer": results[0]}
def count(rows): return len(rows)
"""


@dataclass(frozen=True)
class Outcome:
    """What our evaluator and lmms-eval found on the same questions."""

    folder: Path
    ours: dict[tuple[str, str], Prediction]
    results: dict[str, Any]
    """Of our evaluator."""
    samples: dict[str, list[dict[str, Any]]]
    table: dict[str, dict[str, Any]]
    """Of lmms-eval, by task and group."""
    driven: dict[str, Any]
    """What `lmms_eval_driver` wrote."""


def run(folder: Path, *command: str) -> None:
    """Runs a command as a user does, beside the project's environment, without a network."""
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "OMP_NUM_THREADS": "1",
        "HF_HOME": str(folder / "hub"),
        "HF_HUB_OFFLINE": "1",
        "EGOBENCH_ROOT": str(folder / "videos"),
    }
    for name in ("EGOBENCH_QUESTIONS", "EGOBENCH_CLIPS", "PYTHONPATH"):
        environment.pop(name, None)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = write_benchmark(tmp_path_factory.mktemp("lmms_eval"))
    output = folder / "ours"
    arguments = [f"model={folder / 'model'}", f"data.root={folder / 'videos'}", f"output={output}"]
    config = REPOSITORY / "eval" / "configs" / "egobench.yaml"
    assert egobench.main(["--config", str(config), *arguments, "modes=[likelihood,letter,generate]"]) == 0
    assert clip_files.main([f"data.root={folder / 'videos'}"]) == 0
    groups = ",".join(PREFIXES.values())
    model = ("--model", "exo2ego", "--model_args", f"pretrained={folder / 'model'}")
    logs = ("--output_path", str(folder / "theirs"), "--log_samples", "--verbosity", "ERROR")
    run(folder, "bash", str(SCRIPT), *model, "--tasks", groups, *logs)
    (found,) = (folder / "theirs").rglob("*_results.json")
    return Outcome(
        folder=folder,
        ours={(row["id"], row["mode"]): Prediction(**row) for row in read_jsonl(output / "predictions.jsonl")},
        results=read_json(output / "results.json"),
        samples=read_samples(folder / "theirs"),
        table=read_json(found)["results"],
        driven=drive(folder),
    )


def drive(folder: Path) -> dict[str, Any]:
    """Returns what models of lmms-eval answer to our tasks, and ours to another one."""
    qwen2_5_vl(folder / "qwen")
    (folder / "other").mkdir()
    (folder / "other" / "other.yaml").write_text(OTHER_TASK, encoding="utf-8")
    (folder / "other" / "functions.py").write_text(OTHER_FUNCTIONS, encoding="utf-8")
    rows = [{"id": str(n), "video": str(folder / f"videos/take{n}/ego.mp4"), "question": "What?"} for n in range(2)]
    (folder / "other" / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    driver = REPOSITORY / "tests" / "eval" / "lmms_eval_driver.py"
    paths = [str(folder), str(TASKS_FOLDER), str(folder / "other"), str(folder / "driven.json")]
    run(folder, str(ENVIRONMENT / "bin" / "python"), str(driver), *paths)
    return dict(read_json(folder / "driven.json"))


def asked(outcome: Outcome) -> dict[str, Question]:
    files = question_files(DataOptions(root=outcome.folder / "videos"), None)
    return {question.question_id: question for question in read_questions(files)}


def predictions(outcome: Outcome) -> dict[tuple[str, str], Prediction]:
    """Returns what lmms-eval kept of every answer."""
    rows = [row.get("printed", row.get("rouge_l")) for rows in outcome.samples.values() for row in rows]
    found = [Prediction(**row["prediction"]) for row in rows]
    return {(row.question_id, row.mode): row for row in found}


def test_every_answer_is_our_evaluators_bit_for_bit(outcome: Outcome) -> None:
    theirs = predictions(outcome)
    assert theirs.keys() == outcome.ours.keys()
    assert len(theirs) == QUESTIONS_PER_TABLE * (3 * len(AVERAGED) + 1)
    for key, our in outcome.ours.items():
        # lmms-eval strips the text that it hands over
        given = our.raw_output.strip() if our.raw_output is not None else None
        wanted = (our.predicted_index, our.option_scores, given, our.answer_index)
        found = theirs[key]
        assert (found.predicted_index, found.option_scores, found.raw_output, found.answer_index) == wanted


def test_every_number_is_our_evaluators(outcome: Outcome) -> None:
    tasks = [row for row in outcome.results["results"] if row["task"] != "qaego4d_open"]
    assert len(tasks) == 3 * len(AVERAGED)
    for row in tasks:
        found = outcome.table[f"{PREFIXES[row['mode']]}_{row['task']}"]
        for measure in row["measures"]:
            assert found[f"{measure['name']},none"] == measure["value"], (row["task"], row["mode"], measure["name"])
        printed = next(m for m in row["measures"] if m["name"] == TASKS[row["task"]].measure)
        assert found["printed,none"] == printed["value"]
        assert found["chance,none"] == printed["chance"]
        assert [found["interval_low,none"], found["interval_high,none"]] == list(printed["interval"].values())
        assert found["unparsed,none"] == row["num_unparsed"]
        assert found["unlabelled,none"] == (row["task"] == "egoschema")
    for average in outcome.results["runs"][0]["averages"]:
        group = outcome.table[PREFIXES[average["mode"]]]
        assert group["printed,none"] == pytest.approx(average["value"], abs=1e-12)  # the order of the sum


def test_its_log_makes_our_report(outcome: Outcome) -> None:
    logs = map(str, (outcome.folder / "theirs").rglob("*_samples_*.jsonl"))
    options = ["--questions", str(outcome.folder / "videos" / "egobench"), "--model", "theirs"]
    assert import_answers.main([*logs, *options, "--out", str(outcome.folder / "imported")]) == 0
    write_report(outcome.folder / "imported")
    found = read_json(outcome.folder / "imported" / "results.json")
    assert found["results"] == [{**row, "run": "theirs"} for row in outcome.results["results"]]


def test_a_model_of_lmms_eval_sees_the_span_and_nothing_else(outcome: Outcome) -> None:
    """Every frame that lmms-eval's two readers take of a clip is one of the span's, the observed one last."""
    spans = {Span.of(question).key: question for question in asked(outcome).values()}
    read = outcome.driven["frames"]
    assert set(read) == {key for key, question in spans.items() if question.start_s is not None}
    for key, readers in read.items():
        start_s, end_s = spans[key].start_s or 0.0, spans[key].end_s or 0.0
        brightest = 10 * (round(10 * end_s) + 1)
        for means in readers:
            assert min(means) == pytest.approx(10 * (round(10 * start_s) + 1), abs=3)
            assert max(means) == pytest.approx(brightest, abs=3)
            assert means[-1] == max(means)


def test_a_model_of_lmms_eval_is_scored_by_our_rules(outcome: Outcome) -> None:
    questions = asked(outcome)
    table = outcome.driven["dummy"]["results"]
    for task in AVERAGED:
        known = [q for q in questions.values() if q.task == task and q.answer_index is not None]
        found = table[f"egobench_{task}"]
        assert found["accuracy,none"] == numpy.mean([question.answer_index == 1 for question in known])
        assert found["unparsed,none"] == 0
        if task in ("charades_ego", "ek100_mir"):
            ranks = [score_by_choice(1, question.answer_index or 0, 5) for question in known]
            assert found["option_mAP,none"] == pytest.approx(numpy.mean([rank.average_precision for rank in ranks]))
            assert found["option_nDCG,none"] == pytest.approx(numpy.mean([rank.ndcg for rank in ranks]))


def test_a_chat_model_of_lmms_eval_runs_on_our_tasks(outcome: Outcome) -> None:
    (rows,) = outcome.driven["qwen"]["samples"].values()
    assert [row["printed"]["prediction"]["id"] for row in rows] == ["egoplan/0", "egoplan/1"]
    assert outcome.driven["qwen"]["results"]["egobench_egoplan"]["unparsed,none"] == 2  # random weights


def test_our_model_answers_other_tasks_about_whole_videos(outcome: Outcome) -> None:
    answerer = Exo2EgoAnswerer.load(outcome.folder / "model", form="chat", view=None, max_new_tokens=8)
    (rows,) = outcome.driven["other"]["samples"].values()
    assert len(rows) == 2
    for row in rows:
        path = outcome.folder / "videos" / f"take{row['id']}" / "ego.mp4"
        video = answerer.encode(read_frames(path, None, None, answerer.num_frames))
        assert row["answer"] == answerer.generate(video, answerer.render("What?")).strip()
