"""A function of the user's is a model: the lines of docs/evaluation.md, as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from eval import egobench
from eval.predictions import read_predictions
from exo2ego.errors import EvaluationError
from exo2ego.storage import read_json
from tests.eval.evaluation_setup import write_setup
from tests.shared_data import REPOSITORY

CONFIG = REPOSITORY / "eval" / "configs" / "egobench.yaml"
MODEL = """
class load_my_model:
    def chat(self, frames, prompt):
        assert frames.shape == (16, 48, 48, 3)
        return "B" if "(B)" in prompt else "a cup"
"""


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_setup(tmp_path_factory.mktemp("evaluation"), num_questions=3)


def run(setup: Path, output: Path, model: str, *overrides: str) -> int:
    paths = [f"data.questions={setup / 'questions.jsonl'}", f"data.root={setup / 'videos'}", f"output={output}"]
    return egobench.main(["--config", str(CONFIG), f"model=python:{model}", *paths, *overrides])


def test_the_documented_lines_are_a_model(setup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (REPOSITORY / "docs" / "evaluation.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(# my_model.py.*?)```", text, flags=re.DOTALL)
    assert found is not None
    (tmp_path / "my_documented_model.py").write_text(MODEL + found[1])
    monkeypatch.syspath_prepend(tmp_path)
    assert run(setup, tmp_path / "out", "my_documented_model:answer", "modes=generate") == 0
    assert {row.predicted_index for row in read_predictions(tmp_path / "out")} == {1}
    identity = read_json(tmp_path / "out" / "run.json")["key"]["model"]
    (tmp_path / "my_other_model.py").write_text(MODEL + found[1] + "# version 2\n")
    assert run(setup, tmp_path / "other", "my_other_model:answer", "modes=generate", "num_frames=16") == 0
    assert read_json(tmp_path / "other" / "run.json")["key"]["model"] != identity


@pytest.mark.parametrize(
    ("model", "override", "message"),
    [
        ("no_such_module:answer", "modes=generate", "No module named 'no_such_module'"),
        ("json:no_such_function", "modes=generate", "json has no function `no_such_function`"),
        ("json", "modes=generate", "json has no function ``"),
        ("json:dumps", "modes=letter", "cannot answer by letter; set modes=[generate]"),
        ("", "modes=generate", "expected MODULE:FUNCTION"),
    ],
)
def test_what_is_no_function_is_one_message(
    setup: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str, override: str, message: str
) -> None:
    assert run(setup, tmp_path / "out", model, override) == EvaluationError.exit_code
    assert message in " ".join(capsys.readouterr().err.split())
