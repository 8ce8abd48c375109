"""Ablations from end to end, through the command that a user types, on the tiny corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from exo2ego.config import parse_overrides
from exo2ego.storage import read_json, write_jsonl
from tests.conftest import RunPython
from tests.shared_data import REPOSITORY
from tests.tiny_corpus import CLIPS_PER_TAKE, SECONDS, TEXTS, TinyCorpus, make_corpus
from tests.tiny_runs import overrides_for

TIMEOUT_S = 600


def write_questions(path: Path) -> None:
    rows: list[dict[str, Any]] = []
    for take in range(2):
        for number in range(CLIPS_PER_TAKE):
            start_s = number * SECONDS / CLIPS_PER_TAKE
            rows.append(
                {
                    "id": f"tiny/take{take}/{number}",
                    "task": "tiny",
                    "source": "tiny",
                    "video": f"take{take}_aria.mp4",
                    "start": start_s,
                    "end": start_s + 0.35,
                    "question": "What does C do?",
                    "options": list(TEXTS),
                    "answer_index": number % len(TEXTS),
                    "answer_text": TEXTS[number % len(TEXTS)],
                    "meta": {},
                }
            )
    write_jsonl(path, rows)


def write_files(folder: Path, corpus: TinyCorpus) -> tuple[Path, Path]:
    """Writes a base set and a suite of two rows, of which one builds on the other's only stage."""
    write_questions(folder / "questions.jsonl")
    changes = parse_overrides(overrides_for("init_ego", corpus, "max_steps=1", "checkpoint.every_steps=1"))
    data = {"questions": [str(folder / "questions.jsonl")], "root": str(corpus.root)}
    evaluation = {"data": data, "form": "plain"}
    base = {
        "stages": str(REPOSITORY / "stages" / "configs" / "tiny"),
        "changes": {"init_ego": changes, "control/init_ego": changes},
        "evaluation": {"config": str(REPOSITORY / "eval" / "configs" / "quickstart.yaml"), "changes": evaluation},
    }
    suite = {
        "title": "Longer",
        "source": "a test",
        "measure": "nothing",
        "reference": "short",
        "bases": ["tiny"],
        "rows": {
            "short": {"label": "one stage", "paper": 50.0, "chain": ["init_ego"]},
            "long": {"label": "two stages", "paper": 51.0, "chain": ["init_ego", "control/init_ego"]},
        },
    }
    paths = (folder / "base.yaml", folder / "longer.yaml")
    for path, content in zip(paths, (base, suite), strict=True):
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return paths


@pytest.mark.slow
def test_two_rows_become_a_table_and_nothing_runs_again(run_python: RunPython, tmp_path: Path) -> None:
    base, suite = write_files(tmp_path, make_corpus(tmp_path / "corpus"))
    out = tmp_path / "out"
    command = ("-m", "scripts.ablate", "--suite", suite, "--base", base, "--out", out, "--jobs", 2)
    done = run_python(*command, timeout_s=TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 runs, 0 of them finished before" in done.stdout
    results = read_json(out / "tables" / "longer" / "results.json")
    assert results["evaluations"] == {"planned": 2, "finished": 2}
    assert {made["code"]["version"] for made in results["runs"].values()} == {results["reported_by"]["version"]}
    long, short = results["rows"]["long"], results["rows"]["short"]
    assert (
        long["difference_95_paired_by_seed_t"]["mean"] == long["seeds"]["0"]["average"] - short["seeds"]["0"]["average"]
    )
    assert not long["resolved"]
    parents = {name: made["parent"] for name, made in results["runs"].items() if name.startswith("control_init_ego")}
    assert [name.partition("-")[0] for name in parents.values()] == ["init_ego"]
    again = run_python(*command, timeout_s=TIMEOUT_S)
    assert again.returncode == 0
    assert "4 runs, 4 of them finished before" in again.stdout
    assert "start" not in again.stdout
