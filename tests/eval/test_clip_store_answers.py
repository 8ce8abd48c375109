"""The evaluator on a clip store: the videos themselves are not needed, and answers of the two are never mixed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from data_builders.clip_store import build
from eval import egobench
from exo2ego.errors import ConfigError
from exo2ego.storage import read_jsonl
from tests.data_builders.clip_store_corpus import options_for, run_in_place
from tests.eval.evaluation_setup import write_setup
from tests.shared_data import REPOSITORY


def test_questions_are_answered_from_the_store_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    run_in_place(monkeypatch)
    setup, store = write_setup(tmp_path / "setup", 4), tmp_path / "store"
    questions = setup / "questions.jsonl"
    build.build(options_for(setup / "videos", questions, store, num_frames=2, image_size=32, max_failure_rate=0.0))
    build.build(options_for(setup / "videos", questions, tmp_path / "other", num_frames=3, image_size=32))
    arguments = ["--config", str(REPOSITORY / "eval" / "configs" / "egobench.yaml"), f"model={setup / 'model'}"]
    arguments += [f"data.questions={questions}", f"data.root={setup / 'videos'}", "modes=[likelihood]"]
    assert egobench.main([*arguments, f"output={tmp_path / 'videos'}"]) == 0
    from_videos = (tmp_path / "videos" / "predictions.jsonl").read_bytes()
    assert egobench.main([*arguments, f"output={tmp_path / 'videos'}", f"data.clip_store={store}"]) == 0
    (aside,) = tmp_path.glob("videos.earlier-*")
    assert (aside / "predictions.jsonl").read_bytes() == from_videos
    shutil.rmtree(setup / "videos")
    assert egobench.main([*arguments, f"output={tmp_path / 'stored'}", f"data.clip_store={store}"]) == 0
    wrong = [*arguments, f"output={tmp_path / 'wrong'}", f"data.clip_store={tmp_path / 'other'}"]
    assert egobench.main(wrong) == ConfigError.exit_code
    scores = [
        {row["id"]: row["option_scores"] for row in read_jsonl(folder / "predictions.jsonl")}
        for folder in (aside, tmp_path / "stored")
    ]
    assert scores[0].keys() == scores[1].keys()
    assert len(scores[0]) == 4
    for question, options in scores[0].items():
        assert scores[1][question] == pytest.approx(options, abs=0.1)
