"""The whole path at its smallest size, through the command of the README."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

from tests.shared_data import REPOSITORY

TIMEOUT_S = 1500
CLOSED_TASKS = {
    *("egoschema", "qaego4d_close", "egotaskqa_direct", "egotaskqa_indirect", "charades_ego", "ek100_mir"),
    *("egoplan", "vlnqa", "egomcq_inter", "egomcq_intra"),
}


def test_the_smoke_quickstart_ends_in_a_self_contained_report(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    done = subprocess.run(
        ["bash", "scripts/quickstart.sh", "--smoke"],
        cwd=REPOSITORY,
        env=os.environ | {"EXO2EGO_RUNS": str(runs)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    evaluated = {path.parent.name for path in runs.glob("evaluation/*/results.json")}
    stages = {"init_ego", "stage1_exo", "stage1_ego", "stage2", "stage3"}
    by_stage = ("init_ego", "stage2", "stage3", "stage3_blind", "stage3_shuffled", "control_stage3")
    assert evaluated == stages | {"control_init_ego", "control_stage3"} | {f"egobench_{name}" for name in by_stage}
    scored = json.loads((runs / "evaluation" / "stage3" / "results.json").read_text())["results"]
    assert {row["mode"] for row in scored} == {"likelihood", "letter", "generate"}
    assert all(row["num_scored"] > 0 for row in scored)
    reported = json.loads((runs / "egobench_report" / "results.json").read_text())
    assert [run["name"] for run in reported["runs"]][:3] == ["initial", "stage 2", "stage 3"]
    assert [run["name"] for run in reported["runs"] if run["controls"]] == ["stage 3 blind", "stage 3 shuffled"]
    asked = {(row["run"], row["task"], row["mode"]) for row in reported["results"]}
    assert len(asked) == len(by_stage) * (len(CLOSED_TASKS) * 3 + 1), (
        "not every model answered every task in every mode"
    )
    assert {task for _, task, mode in asked if mode == "letter"} == CLOSED_TASKS
    open_scores = [row["measures"] for row in reported["results"] if row["task"] == "qaego4d_open"]
    assert all({measure["name"] for measure in measures} >= {"rouge_l", "meteor"} for measures in open_scores)
    assert all(row["num_failed"] == row["num_unanswered"] == 0 for row in reported["results"])
    assert "A - B" in (runs / "egobench_report" / "stage3_against_blind.txt").read_text()

    trained_on = [json.loads(line) for line in (runs / "egoit" / "egoit.jsonl").read_text().splitlines()]
    assert {row["source"] for row in trained_on} == {"egtea", "ssv2", "egotimeqa", "openeqa", "egoexolearn"}
    told = json.loads((runs / "stage3" / "run.json").read_text())
    assert "egoit.jsonl" in json.dumps(told), "stage 3 did not train on EgoIT"

    page = (runs / "report.html").read_text()
    linked = re.findall(r"""(?:src|href)=["'](?!data:)([^"']*)""", page)
    assert linked == ["egobench_report/report.html"], "the page needs something outside itself"
    assert "data:image" in (runs / linked[0]).read_text()
    for name in ("init_ego", "stage1", "stage2", "stage3", "control_init_ego", "control_stage3"):
        assert f"<b>{name}</b>" in page
    assert all(f"<td>{task}</td>" in page for task in CLOSED_TASKS)
    assert (runs / "preview.png").stat().st_size > 0


def test_an_unknown_argument_is_refused() -> None:
    done = subprocess.run(
        ["bash", "scripts/quickstart.sh", "--smok"], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "--smok" in done.stderr
