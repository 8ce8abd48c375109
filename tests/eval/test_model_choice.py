"""`model=FAMILY:SOURCE`: what is wrong with it is said of it, not of a file that did not say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval import egobench
from eval.answerers.loading import AnswererOptions, EndpointOptions, load_answerer
from exo2ego.errors import EvaluationError
from tests.eval.evaluation_setup import write_setup
from tests.eval.test_egobench import CONFIG


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_setup(tmp_path_factory.mktemp("evaluation"), num_questions=3)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("qwen_vl:", "model=qwen_vl:: nothing stands behind the colon; expected a name or a folder"),
        ("endpoint:", "model=endpoint:: nothing stands behind the colon; expected the model's name at the endpoint"),
        ("open_clip:", "model=open_clip:: nothing stands behind the colon; expected ARCH@FILE"),
        ("{setup}/questions.jsonl", "questions.jsonl: is a file; give the run folder, checkpoint or export that it"),
    ],
)
def test_what_names_no_model(
    setup: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str, message: str
) -> None:
    paths = [f"data.questions={setup / 'questions.jsonl'}", f"data.root={setup / 'videos'}"]
    told = [f"model={model.format(setup=setup)}", f"output={tmp_path / 'out'}"]
    assert egobench.main(["--config", str(CONFIG), *paths, *told]) == EvaluationError.exit_code
    said = " ".join(capsys.readouterr().err.split())
    assert message in said
    assert CONFIG.name not in said
    assert not (tmp_path / "out").exists()


def test_an_endpoints_model_is_named_once() -> None:
    options = AnswererOptions("chat", None, 4, None, EndpointOptions(model="other"))
    with pytest.raises(EvaluationError, match=r"endpoint.model=other: the model is named by model=endpoint:made-up"):
        load_answerer("endpoint:made-up", options)
