"""The model card says what the run recorded, and nothing that it did not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import exo2ego
from exo2ego.inference import export_for_inference, is_exported
from exo2ego.model_card import model_card
from exo2ego.storage import hash_file, read_json
from exo2ego.train.checkpoint import find_checkpoint
from tests.test_export import STAGE3, write_run
from tests.tiny_corpus import TinyCorpus, make_corpus
from tests.tiny_runs import run

RESULT: dict[str, Any] = {
    "task": "ego_mcq",
    "mode": "likelihood",
    "num_scored": 40,
    "accuracy": 0.3251,
    "interval": {"low": 0.2, "high": 0.45},
    "chance": 0.2,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> TinyCorpus:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def runs(corpus: TinyCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four stages, one step each."""
    folder = tmp_path_factory.mktemp("runs")
    (corpus.language_model / "README.md").write_text("---\nlicense: apache-2.0\n---\n# tiny\n")
    parent = None
    for name in ("init_ego", "stage1", "stage2", "stage3"):
        overrides = ["max_steps=1", *([f"parent={parent}"] if parent else [])]
        assert run(name, corpus, folder / name, *overrides) == 0
        parent = folder / name
    return folder


def tables(card: str) -> Iterator[dict[str, str]]:
    """Yields the rows of all tables by column."""
    header: list[str] | None = None
    for line in card.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")] if line.startswith("|") else None
        if cells is None or set(cells) == {"---"}:
            header = header if cells else None
        elif header is None:
            header = cells
        else:
            yield dict(zip(header, cells, strict=True))


def test_the_card_of_a_chain_agrees_with_its_records(runs: Path, corpus: TinyCorpus, tmp_path: Path) -> None:
    results = runs / "stage3" / "egobench"
    results.mkdir()
    (results / "results.json").write_text(json.dumps({"results": [RESULT]}))
    write_record(results, runs / "stage3")
    folder = export_for_inference(runs / "stage3", tmp_path / "export", keep_adapter=True)
    card = (folder / "README.md").read_text()
    front = yaml.safe_load(re.match(r"---\n(.*?)\n---", card, flags=re.DOTALL)[1])  # type: ignore[index]
    assert front["library_name"] == "transformers"
    assert "base_model" not in front, "no part came from the hub"
    rows = list(tables(card))
    stages = [row for row in rows if "steps" in row]
    assert [row["stage"] for row in stages] == ["init_ego", "stage1", "stage2", "stage3"]
    for row in stages:
        checkpoint = find_checkpoint(runs / row["stage"])
        assert row["steps"] == f"1 of {checkpoint.record['plan']['total_steps']}"
        assert row["trained weights (SHA-256)"] == checkpoint.identity[:16]
        assert float(row["learning rate"]) == checkpoint.record["provenance"]["config"]["optim"]["learning_rate"]
        assert row["code"].startswith(exo2ego.__version__)
    num_frozen = sum(
        entry["learning_rate"] is None
        for name in ("init_ego", "stage1", "stage2", "stage3")
        for entry in find_checkpoint(runs / name).record["freeze_table"]
    )
    assert sum(row.get("learning rate") == "frozen" for row in rows) == num_frozen
    digests = {row["stage"]: row["SHA-256"] for row in rows if "SHA-256" in row}
    assert digests["stage1"] == hash_file(corpus.clips)
    assert digests["stage3"] == hash_file(corpus.conversations)
    bases = {row["part"]: row for row in rows if "part" in row}
    assert bases["language model"]["licence stated by the source"] == "apache-2.0"
    identity = find_checkpoint(runs / "stage3").record["base_weights"]["language_model"]
    assert bases["language model"]["content"] == identity[:16]
    assert bases["vision tower"]["source"] == "`random weights of the seed`"
    (result,) = [row for row in rows if "task" in row]
    assert (result["folder"], result["checkpoint"]) == ("egobench", "the newest of the time")
    assert (result["accuracy %"], result["95 % interval"], result["chance %"]) == ("32.5", "20.0–45.0", "20.0")
    assert "- `egobench`: 2026-11-21T10:00:00" in card
    assert "Left out" not in card
    assert "Weights are in float32" in card
    assert "PeftModel.from_pretrained" in card
    assert is_exported(folder)


def write_record(folder: Path, model: Path) -> None:
    made = {"written_utc": "2026-11-21T10:00:00", "config": {"model": str(model)}}
    (folder / "run.json").write_text(json.dumps({"key": {}, "provenance": made}))


def test_results_of_another_model_are_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = write_run(tmp_path / "run", STAGE3)
    step = run_dir / "checkpoints" / "step_00000001"
    elsewhere = tmp_path / "other" / "checkpoints" / "step_00000001"
    monkeypatch.chdir(tmp_path)
    models = {"newest": Path("run"), "step": step, "other": tmp_path / "other", "other_step": elsewhere}
    for name, model in models.items():
        folder = run_dir / "evaluation" / name
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps({"results": [RESULT]}))
        write_record(folder, model)
    for named in (run_dir, step):
        card = (export_for_inference(named, tmp_path / "export") / "README.md").read_text()
        rows = {row["folder"]: row["checkpoint"] for row in tables(card) if "task" in row}
        assert rows == {"evaluation/newest": "the newest of the time", "evaluation/step": "step_00000001"}
        assert "Left out: the results of other models in 2 folders." in card


def test_the_group_of_a_row_is_said(tmp_path: Path) -> None:
    checkpoint = find_checkpoint(write_run(tmp_path / "run", STAGE3))
    row = {"pattern": "model.mapper_f.*", "learning_rate": 1e-4, "num_parameters": 12, "group": None}
    checkpoint.record["freeze_table"] = [row, {**row, "learning_rate": 1e-5, "group": "*.bias"}]
    card = model_card(checkpoint, has_adapter=False, dtype="bfloat16")
    assert [row["parameters"] for row in tables(card) if "parameters" in row] == [
        "`model.mapper_f.*`",
        "`model.mapper_f.*`, group `*.bias`",
    ]


def test_a_run_without_records_makes_no_claims(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", STAGE3)
    (run_dir / "results.json").write_text("[1]")
    card = (export_for_inference(run_dir, tmp_path / "export") / "README.md").read_text()
    assert "No results were found in the run's folder." in card
    assert "not recorded" in card
    assert "PeftModel" not in card
    assert read_json(tmp_path / "export" / "config.json")["base_weights"] == {}


def test_hub_names_are_the_base_models(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", STAGE3)
    checkpoint = find_checkpoint(run_dir)
    checkpoint.record["model"]["language_model"] = {"from_pretrained": "mistralai/Mistral-7B-Instruct-v0.2"}
    checkpoint.record["model"]["videollama2"] = "/data/VideoLLaMA2-7B-16F-Base"
    card = model_card(checkpoint, has_adapter=False, dtype="bfloat16")
    assert "base_model:\n- mistralai/Mistral-7B-Instruct-v0.2\n" in card
    assert "| connector | `/data/VideoLLaMA2-7B-16F-Base` |" in card
