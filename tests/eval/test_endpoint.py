"""An OpenAI-compatible endpoint as a model, against a made-up server."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy
import pytest
from PIL import Image

from eval import egobench
from eval.answerers.endpoint import EndpointAnswerer
from eval.answerers.loading import EndpointOptions
from eval.predictions import read_failures, read_predictions
from exo2ego.language_service import LanguageService
from exo2ego.storage import read_json
from tests.eval.evaluation_setup import write_setup
from tests.eval.test_egobench import CONFIG
from tests.fake_language_server import CANARY, FakeServer, completion, failure, fake_server


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_setup(tmp_path_factory.mktemp("evaluation"), num_questions=6)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)


def run(setup: Path, output: Path, server: FakeServer, *overrides: str) -> int:
    paths = [f"data.questions={setup / 'questions.jsonl'}", f"data.root={setup / 'videos'}", f"output={output}"]
    endpoint = ["model=endpoint:made-up-2024", f"endpoint.base_url={server.url}", "endpoint.max_attempts=1"]
    return egobench.main(["--config", str(CONFIG), *paths, *endpoint, "modes=[generate]", *overrides])


def test_the_frames_are_pictures_and_the_answer_is_parsed(setup: Path, tmp_path: Path) -> None:
    with fake_server(completion("(B)"), completion("I would rather not say.")) as server:
        assert run(setup, tmp_path / "out", server, "num_frames=3") == 0
        assert len(server.requests) == 6
        (message,) = server.requests[0]["messages"]
    pictures = [part["image_url"]["url"] for part in message["content"][:-1]]
    assert len(pictures) == 3
    picture = Image.open(io.BytesIO(base64.b64decode(pictures[0].removeprefix("data:image/jpeg;base64,"))))
    assert picture.size == (48, 48)
    assert message["content"][-1]["text"].startswith("From a first-person perspective")
    rows = read_predictions(tmp_path / "out")
    assert rows[0].predicted_index == 1
    (scored,) = read_json(tmp_path / "out" / "results.json")["results"]
    assert (scored["num_questions"], scored["num_unparsed"]) == (6, 5)
    written = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "out").iterdir() if path.is_file())
    assert CANARY not in written


def test_a_failing_endpoint_is_counted_and_asked_again_later(setup: Path, tmp_path: Path) -> None:
    with fake_server(completion("A"), failure(400), completion("B")) as server:
        assert run(setup, tmp_path / "out", server, "max_failure_rate=0.5") == 0
        assert len(read_predictions(tmp_path / "out")) == 5, "the clip's other question is asked all the same"
        assert [row.reason for row in read_failures(tmp_path / "out")] == ["refused"]
        assert run(setup, tmp_path / "out", server, "max_failure_rate=0.5") == 0
    assert len(read_predictions(tmp_path / "out")) == 6
    assert not read_failures(tmp_path / "out")


def test_an_endpoint_that_always_fails_stops_the_run(
    setup: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with fake_server(failure(400)) as server:
        assert run(setup, tmp_path / "out", server) == 3
    assert "6 questions" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("modes=[letter]", "cannot answer by letter; set modes=[generate]"),
        ("view=ego", "form and view are for Exo2Ego models"),
        ("model=gemini:pro", "family `gemini` is unknown; known: exo2ego, endpoint"),
        ("endpoint.key_variable=lower", "expected the name of an environment variable"),
    ],
)
def test_what_an_endpoint_cannot_do(
    setup: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, message: str
) -> None:
    with fake_server(completion("A")) as server:
        assert run(setup, tmp_path / "out", server, change) != 0
    assert message in " ".join(capsys.readouterr().err.split())


def test_large_pictures_are_shrunk_and_others_stay() -> None:
    answerer = EndpointAnswerer(LanguageService(EndpointOptions(model="made-up")), None)
    large, small = (answerer.encode(numpy.zeros((1, *size, 3), numpy.uint8))[0] for size in ((500, 1000), (40, 60)))
    assert Image.open(io.BytesIO(large)).size == (768, 384)
    assert Image.open(io.BytesIO(small)).size == (60, 40)
