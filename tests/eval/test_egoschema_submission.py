"""EgoSchema's two submission files."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval import egoschema_submission
from eval.failures import Failure
from eval.predictions import PredictionStore
from exo2ego.storage import read_json
from tests.eval.open_folder import prediction, question

OPTIONS = ["C reads", "C cooks", "C sleeps", "C runs", "C sings"]


def write_folder(folder: Path, *, finished: bool = True) -> Path:
    """Three questions of EgoSchema (the third unreadable, or not reached) and one of another task."""
    asked = [question(f"egoschema/{name}", "egoschema", options=OPTIONS) for name in ("u1", "u2", "u3")]
    other = question("egoplan/u4", "egoplan", options=OPTIONS)
    with PredictionStore(folder, {"model": "m"}, {}, [*asked, other]) as store:
        store.add(prediction(asked[0], "generate", predicted_index=3))
        store.add(prediction(asked[1], "generate", predicted_index=None, raw_output="prose"))
        store.add(prediction(other, "generate", predicted_index=1))
        store.add(prediction(asked[0], "letter", predicted_index=1))
        if finished:
            lost = Failure(id="egoschema/u3", task="egoschema", mode="generate", video="v", reason="missing", detail="")
            store.fail(lost)
    return folder


def said(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


def test_every_question_has_a_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "run")
    assert egoschema_submission.main([str(folder), "--mode", "generate"]) == 0
    assert read_json(folder / "egoschema_generate.json") == {"u1": 3, "u2": 0, "u3": 0}
    assert (folder / "egoschema_generate.csv").read_text(encoding="utf-8") == "q_uid,answer\nu1,3\nu2,0\nu3,0\n"
    assert (
        "3 answers (5,031 in the whole set); option 0 stands for 1 that name no option, 1 that failed and 0 not "
        "answered yet"
    ) in said(capsys)


def test_a_run_that_is_not_finished_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "run", finished=False)
    assert egoschema_submission.main([str(folder), "--mode", "generate"]) == 5
    assert "1 of 3 questions are not answered yet; run the same eval.egobench command again" in said(capsys)
    assert not list(folder.glob("egoschema_*"))
    assert egoschema_submission.main([str(folder), "--mode", "generate", "--unfinished"]) == 0
    assert read_json(folder / "egoschema_generate.json") == {"u1": 3, "u2": 0, "u3": 0}
    assert "1 that name no option, 0 that failed and 1 not answered yet" in said(capsys)


def test_the_parts_of_several_processes_count(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "run")
    written = folder / "predictions.jsonl"
    lines = written.read_text(encoding="utf-8").splitlines(keepends=True)
    written.write_text("", encoding="utf-8")
    for number, line in enumerate(lines):
        (folder / f"predictions.jsonl.part-{number}").write_text(line, encoding="utf-8")
    assert egoschema_submission.main([str(folder), "--mode", "generate", "--out", str(tmp_path)]) == 0
    assert read_json(tmp_path / "egoschema_generate.json") == {"u1": 3, "u2": 0, "u3": 0}


def test_a_mode_that_was_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "run")
    assert egoschema_submission.main([str(folder)]) == 5
    assert "no answers to egoschema in mode likelihood" in said(capsys)
