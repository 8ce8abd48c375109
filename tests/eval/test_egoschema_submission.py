"""EgoSchema's two submission files."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval import egoschema_submission
from eval.predictions import PredictionStore
from exo2ego.storage import read_json
from tests.eval.open_folder import prediction, question


def write_folder(folder: Path) -> Path:
    options = ["C reads", "C cooks", "C sleeps", "C runs", "C sings"]
    asked = [question(f"egoschema/{name}", "egoschema", options=options) for name in ("u1", "u2", "u3")]
    with PredictionStore(folder, {"model": "m"}, {}, asked) as store:
        store.add(prediction(asked[0], "generate", predicted_index=3))
        store.add(prediction(asked[1], "generate", predicted_index=None, raw_output="prose"))
    return folder


def test_every_question_has_a_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "run")
    assert egoschema_submission.main([str(folder), "--mode", "generate"]) == 0
    assert read_json(folder / "egoschema_generate.json") == {"u1": 3, "u2": 0, "u3": 0}
    assert (folder / "egoschema_generate.csv").read_text(encoding="utf-8") == "q_uid,answer\nu1,3\nu2,0\nu3,0\n"
    assert "3 answers (5,031 in the whole set), 2 of them option 0" in " ".join(capsys.readouterr().out.split())


def test_a_mode_that_was_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "run")
    assert egoschema_submission.main([str(folder)]) == 5
    assert "no answers to egoschema in mode likelihood" in " ".join(capsys.readouterr().err.split())
