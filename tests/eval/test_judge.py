"""The judge of open answers, against a made-up endpoint."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval import judge
from eval.judge import parse_verdict
from exo2ego.errors import EvaluationError
from exo2ego.language_service import CHARACTERS_PER_TOKEN
from exo2ego.storage import read_json
from tests.eval.open_folder import write_open_folder
from tests.fake_language_server import CANARY, FakeServer, completion, failure, fake_server

YES = "{'pred': 'yes', 'score': 4.8}"


def arguments(folder: Path, server: FakeServer, *more: str) -> list[str]:
    return ["--folder", str(folder), "--model", "made-up-2024", "--base-url", server.url, *more]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (YES, (True, 4)),  # cut, as the protocol's own code does
        ('{"pred": "no", "score": 0}', (False, 0)),
        ("Here you are: {'pred': 'Yes', 'score': 5}.", (True, 5)),
        ("{'pred': 'yes', 'score': 7}", None),
        ("{'pred': 'yes', 'score': -1}", None),
        ("{'pred': 'Yes.', 'score': '4'}", (True, 4)),  # which the protocol's own code takes
        ("{'pred': 'yes', 'score': 'four'}", None),
        ("{'pred': 'yes', 'score': '44'}", None),
        ("{'pred': 'yes', 'score': True}", None),
        ("{'pred': 'yes', 'score': float('nan')}", None),
        ("{'pred': 'perhaps', 'score': 3}", None),
        ("{'score': 3}", None),
        ("yes, 4", None),
        ("{__import__('os').system('true')}", None),
        ("{" * 5000 + "}" * 5000, None),
        ("", None),
    ],
)
def test_verdicts(text: str, verdict: tuple[bool, int] | None) -> None:
    assert parse_verdict(text) == verdict


@given(st.text(max_size=60))
def test_any_text_is_a_verdict_or_none(text: str) -> None:
    verdict = parse_verdict("{'pred': 'yes', 'score': 3}" + text)
    assert verdict is None or 0 <= verdict[1] <= 5


def test_a_folder_is_judged_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_open_folder(tmp_path / "run")
    with fake_server(completion(YES), completion("{'pred': 'no', 'score': 2}")) as server:
        assert judge.main(arguments(folder, server)) == 0
        assert len(server.requests) == 2  # the empty answer is wrong without asking
        assert server.requests[0]["temperature"] == 0
        asked = server.requests[0]["messages"][1]["content"]
        assert "Question: What is a?\nCorrect Answer: on the table\nPredicted Answer: On the table." in asked
        assert "accuracy 33.3 %  mean score 2.00 of 5  (3 judged" in " ".join(capsys.readouterr().out.split(" "))
        first = (folder / "judgements.json").read_bytes()
        assert judge.main(arguments(folder, server)) == 0
        assert len(server.requests) == 2
    assert (folder / "judgements.json").read_bytes() == first
    written = read_json(folder / "judgements.json")
    assert written["judge"]["model"] == "made-up-2024"
    assert written["summary"]["num_judged"] == 3
    assert CANARY not in first.decode() + "".join(path.read_text() for path in (folder / "judge_cache").iterdir())


def test_an_unreadable_verdict_is_asked_again_and_then_counted(tmp_path: Path) -> None:
    folder = write_open_folder(tmp_path / "run")
    with fake_server(completion("Well done!"), completion(YES), completion("{'pred': 'yes', 'score': 9}")) as server:
        assert judge.main(arguments(folder, server, "--max-samples", "2")) == 0
        assert len(server.requests) == 4
    summary: dict[str, Any] = read_json(folder / "judgements.json")["summary"]
    assert summary == {"accuracy": 0.5, "mean_score": 2.0, "num_judged": 2, "num_without_verdict": 1}


def test_a_judge_that_never_follows_the_protocol_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_open_folder(tmp_path / "run", {"a": ("x", "y")})
    with fake_server(completion("prose")) as server:
        assert judge.main(arguments(folder, server)) == 5
    assert "none of 1 verdicts could be read" in " ".join(capsys.readouterr().err.split())


def test_what_was_judged_before_the_endpoint_failed_is_kept(tmp_path: Path) -> None:
    folder = write_open_folder(tmp_path / "run")
    with fake_server(completion(YES), failure(401), completion(YES)) as server:
        assert judge.main(arguments(folder, server)) == 7
        assert not (folder / "judgements.json").exists()
        assert judge.main(arguments(folder, server)) == 0
        assert len(server.requests) == 3


def test_dry_run_sends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_open_folder(tmp_path / "run")
    with fake_server(completion(YES)) as server:
        assert judge.main(arguments(folder, server, "--dry-run")) == 0
        assert not server.requests
    assert "3 answers, about" in capsys.readouterr().out


def test_the_estimate_of_a_dry_run_counts_what_is_sent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_open_folder(tmp_path / "run", {"a" * 4000: ("yes", "no")})  # `question` repeats the name
    with fake_server(completion(YES)) as server:
        assert judge.main(arguments(folder, server, "--dry-run")) == 0
        counted = int(re.search(r"about ([\d,]+) tokens", capsys.readouterr().out)[1].replace(",", ""))  # type: ignore[index]
        assert judge.main(arguments(folder, server)) == 0
        sent = sum(len(message["content"]) for message in server.requests[0]["messages"])
    assert counted == math.ceil(sent / CHARACTERS_PER_TOKEN)


def test_a_dry_run_without_open_answers_fails_as_the_command_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_open_folder(tmp_path / "run", {})
    with fake_server(completion(YES)) as server:
        for more in ((), ("--dry-run",)):
            assert judge.main(arguments(folder, server, *more)) == EvaluationError.exit_code
            assert "holds no answers to open questions" in " ".join(capsys.readouterr().err.split())


def test_help_says_where_verdicts_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        judge.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "default: `judge_cache` in the folder" in said
    assert "default None" not in said
