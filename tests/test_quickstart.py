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
    egobench = {"egobench_stage3", "egobench_control_stage3"}
    assert evaluated == stages | {"control_init_ego", "control_stage3"} | egobench
    scored = json.loads((runs / "evaluation" / "stage3" / "results.json").read_text())["results"]
    assert {row["mode"] for row in scored} == {"likelihood", "letter", "generate"}
    assert all(row["num_scored"] > 0 for row in scored)
    scored = json.loads((runs / "evaluation" / "egobench_stage3" / "results.json").read_text())["results"]
    assert {row["task"] for row in scored} == CLOSED_TASKS
    assert all(row["num_failed"] == 0 for row in scored)

    trained_on = [json.loads(line) for line in (runs / "egoit" / "egoit.jsonl").read_text().splitlines()]
    assert {row["source"] for row in trained_on} == {"egtea", "ssv2", "egotimeqa", "openeqa", "egoexolearn"}
    told = json.loads((runs / "stage3" / "run.json").read_text())
    assert "egoit.jsonl" in json.dumps(told), "stage 3 did not train on EgoIT"

    page = (runs / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page), "the page refers to something outside itself"
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
