"""The client of an endpoint against a server that misbehaves, over real HTTP; above all, the key stays secret."""

from __future__ import annotations

import email.utils
import gzip
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exo2ego.config import validate_config
from exo2ego.errors import ConfigError, DataError, Exo2EgoError, ServiceError
from exo2ego.language_prompt import Prompt
from exo2ego.language_service import LONGEST_BODY_BYTES, LanguageService, ServiceOptions, estimate_tokens
from tests.fake_language_server import (
    CANARY,
    Behaviour,
    FakeServer,
    completion,
    echo_key,
    failure,
    fake_server,
    hang,
    reset,
    respond,
)

PROMPT = Prompt("You are brief.", "What is shown?")
VARIABLE = "EXO2EGO_TEST_KEY"
GOOD_BODY = b'{"choices": [{"message": {"content": "A cup."}}]}'


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with fake_server(completion("A cup.")) as running:
        yield running


def service(server: FakeServer, **changes: Any) -> tuple[LanguageService, list[float]]:
    """Returns a client of the server, and the pauses that it makes."""
    pauses: list[float] = []
    values = {"model": "made-up", "base_url": server.url, "key_variable": VARIABLE, **changes}
    options = ServiceOptions.model_validate(values)
    return LanguageService(options, sleep=pauses.append, environment={VARIABLE: CANARY}), pauses


def test_an_answer_comes_with_its_tokens_and_cost(server: FakeServer) -> None:
    client, pauses = service(server, input_price=2.5, output_price=10, temperature=0, max_answer_tokens=7)
    answer = client.ask(PROMPT)
    assert (answer.text, answer.finish_reason, answer.input_tokens, answer.output_tokens) == ("A cup.", "stop", 100, 50)
    assert server.requests == [
        {
            "model": "made-up",
            "messages": [
                {"role": "system", "content": "You are brief."},
                {"role": "user", "content": "What is shown?"},
            ],
            "max_tokens": 7,
            "temperature": 0,
        }
    ]
    assert server.keys == [f"Bearer {CANARY}"]
    assert (client.usage.calls, client.usage.retries, pauses) == (1, 0, [])
    assert client.usage.cost(client.options) == pytest.approx((100 * 2.5 + 50 * 10) / 1e6)


def test_newer_models_are_told_the_limit_in_their_own_word(server: FakeServer) -> None:
    client, _ = service(server, limit_parameter="max_completion_tokens")
    client.ask(PROMPT)
    assert server.requests[0]["max_completion_tokens"] == 2000
    assert "max_tokens" not in server.requests[0]


def test_an_endpoint_that_tells_no_counts_is_reported(server: FakeServer) -> None:
    server.behaviours = [completion("A cup.", tokens=None)]
    client, _ = service(server)
    assert client.ask(PROMPT).input_tokens is None
    assert (client.usage.calls_without_count, client.usage.cost(client.options)) == (1, None)


def test_what_was_answered_once_is_not_asked_again(server: FakeServer, tmp_path: Path) -> None:
    server.behaviours = [completion("first"), completion("second"), completion("third")]
    client, _ = service(server, cache=tmp_path)
    assert [client.ask(PROMPT).text, client.ask(PROMPT, sample=1).text] == ["first", "second"]
    later = LanguageService(client.options, environment={})  # not even a key is needed
    assert [later.ask(PROMPT).text, later.ask(PROMPT, sample=1).text] == ["first", "second"]
    assert (later.usage.calls, later.usage.cached_answers, len(server.requests)) == (0, 2, 2)
    other, _ = service(server, cache=tmp_path, temperature=0.5)
    assert other.ask(PROMPT).text == "third"


def test_a_damaged_cache_is_named(server: FakeServer, tmp_path: Path) -> None:
    client, _ = service(server, cache=tmp_path)
    client.ask(PROMPT)
    (cached,) = tmp_path.iterdir()
    for damage in ('{"text": "A', '{"other": 1}', "[]"):
        cached.write_text(damage, encoding="utf-8")
        with pytest.raises(DataError, match=cached.name):
            client.ask(PROMPT)


def test_a_busy_server_is_waited_for_as_long_as_it_asks(server: FakeServer) -> None:
    in_7_s = email.utils.formatdate(time.time() + 7, usegmt=True)
    server.behaviours = [failure(429, Retry_After="2.5"), failure(503, Retry_After=in_7_s), completion("A cup.")]
    client, pauses = service(server)
    assert client.ask(PROMPT).text == "A cup."
    assert pauses[0] == 2.5
    assert 4 < pauses[1] <= 7
    assert client.usage.retries == 2


def test_a_server_that_asks_for_an_hour_is_not_waited_for(server: FakeServer) -> None:
    server.behaviours = [failure(429, Retry_After="3600")]
    client, pauses = service(server)
    with pytest.raises(ServiceError, match="3600 s"):
        client.ask(PROMPT)
    assert (pauses, len(server.requests)) == ([], 1)


@pytest.mark.parametrize("header", ["soon", "nan", "inf", "-3", "Mon, 99 Foo 2026"])
def test_a_senseless_pause_is_replaced_by_our_own(server: FakeServer, header: str) -> None:
    server.behaviours = [failure(429, Retry_After=header), completion("A cup.")]
    client, pauses = service(server)
    client.ask(PROMPT)
    assert 0 <= pauses[0] <= 1


def test_pauses_grow_and_attempts_end(server: FakeServer) -> None:
    server.behaviours = [failure(500)]
    client, pauses = service(server, max_attempts=8)
    with pytest.raises(ServiceError, match=r"status 500: made-up failure \(after 8 attempts\)"):
        client.ask(PROMPT)
    assert len(server.requests) == 8
    assert all(longest / 2 <= pause <= longest for pause, longest in zip(pauses, (1, 2, 4, 8, 16, 30, 30), strict=True))


FAULTS: dict[str, tuple[Behaviour, str]] = {
    "reset": (reset, "the connection failed"),
    "html": (respond(200, b"<html>Sign in</html>", content_type="text/html"), "not a chat completion"),
    "broken JSON": (respond(200, b'{"choices": [{"mess'), "not a chat completion"),
    "not UTF-8": (respond(200, b'{"choices": "\xff"}'), "not a chat completion"),
    "no choice": (respond(200, b'{"choices": []}'), "not a chat completion"),
    "no text": (completion(None), "not a chat completion"),
    "empty": (respond(200, b""), "not a chat completion"),
    "bad gateway": (failure(502), "status 502"),
    "too long": (respond(200, b" " * LONGEST_BODY_BYTES + GOOD_BODY), "longer than 16,777,216 bytes"),
    "too long a failure": (respond(500, b" " * LONGEST_BODY_BYTES + b"{}"), "longer than 16,777,216 bytes"),
    "packed": (respond(200, gzip.compress(GOOD_BODY), Content_Encoding="gzip"), "is compressed"),
    "request time-out": (failure(408), "status 408"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_passing_fault_is_survived_and_a_lasting_one_named(server: FakeServer, fault: str) -> None:
    behaviour, message = FAULTS[fault]
    server.behaviours = [behaviour, behaviour, completion("A cup.")]
    client, pauses = service(server)
    assert client.ask(PROMPT).text == "A cup."
    assert len(pauses) == 2
    server.behaviours = [behaviour]
    with pytest.raises(ServiceError, match=message):
        service(server, max_attempts=2)[0].ask(PROMPT)


def test_an_answer_that_does_not_come_is_not_waited_for_forever(server: FakeServer) -> None:
    server.behaviours = [hang(lambda: server), completion("A cup.")]
    client, pauses = service(server, timeout_s=0.2)
    started = time.monotonic()
    assert client.ask(PROMPT).text == "A cup."
    assert time.monotonic() - started < 5
    assert len(pauses) == 1


@pytest.mark.parametrize("status", [200, 400, 500])
def test_a_body_that_never_ends_is_not_waited_for(server: FakeServer, status: int) -> None:
    """Every byte comes in time, so that no single read takes too long."""
    server.behaviours = [respond(status, GOOD_BODY, pause_s=0.05)]
    client, _ = service(server, timeout_s=0.2, max_attempts=2)
    started = time.monotonic()
    with pytest.raises(ServiceError, match=r"no answer within 0\.2 s \(after 2 attempts\)"):
        client.ask(PROMPT)
    assert time.monotonic() - started < 2


def test_a_slow_answer_that_comes_in_time_is_taken(server: FakeServer) -> None:
    server.behaviours = [respond(200, GOOD_BODY, pause_s=0.005)]
    assert service(server, timeout_s=30)[0].ask(PROMPT).text == "A cup."


def test_a_server_that_is_not_there_is_named() -> None:
    with fake_server(completion("")) as server:
        url = server.url
    with pytest.raises(ServiceError, match=rf"{url}: the connection failed \(ConnectError\) \(after 2 attempts\)"):
        service(server, base_url=url, max_attempts=2)[0].ask(PROMPT)


@pytest.mark.parametrize(
    ("status", "code", "advice"),
    [
        (400, None, "status 400: made-up failure"),
        (401, None, rf"is the key in \${VARIABLE} right"),
        (403, None, "may the key"),
        (404, None, "is `made-up` a model of it"),
        (429, "insufficient_quota", "status 429"),
    ],
)
def test_what_waiting_cannot_mend_is_told_at_once(
    server: FakeServer, status: int, code: str | None, advice: str
) -> None:
    server.behaviours = [failure(status, code=code)]
    client, pauses = service(server)
    with pytest.raises(ServiceError, match=advice):
        client.ask(PROMPT)
    assert (pauses, len(server.requests)) == ([], 1)


def test_a_message_of_the_server_cannot_write_on_the_terminal(server: FakeServer) -> None:
    server.behaviours = [failure(400, "\x1b[2Jgone\r\n" + "x" * 5000)]
    with pytest.raises(ServiceError) as caught:
        service(server)[0].ask(PROMPT)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_does_not_carry_the_key_elsewhere(server: FakeServer, status: int) -> None:
    with fake_server(completion("stolen")) as other:
        server.behaviours = [respond(status, b"", Location=f"{other.url}/chat/completions")]
        with pytest.raises(ServiceError, match="redirects"):
            service(server)[0].ask(PROMPT)
        assert other.requests == []
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [200, 400, 401, 429, 500])
def test_a_server_that_repeats_the_key_reveals_nothing(
    server: FakeServer,
    status: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    server.behaviours = [echo_key(status)]
    client, _ = service(server, cache=tmp_path, max_attempts=2)
    with caplog.at_level(logging.DEBUG), pytest.raises(ServiceError) as caught:
        client.ask(PROMPT)
    seen = "".join(traceback.format_exception(caught.value)) + caplog.text + "".join(capfd.readouterr()) + repr(client)
    assert "openai" in caplog.text  # the library did log
    assert server.keys[0] == f"Bearer {CANARY}"
    assert CANARY not in seen
    assert CANARY[:12] not in seen
    assert caught.value.__context__ is None  # what --debug would print, too
    assert list(tmp_path.iterdir()) == []


def test_the_key_is_in_nothing_that_a_good_answer_leaves(
    server: FakeServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    client, _ = service(server, cache=tmp_path)
    with caplog.at_level(logging.DEBUG):
        client.ask(PROMPT)
    cached = "".join(path.read_text(encoding="utf-8") for path in tmp_path.iterdir())
    assert cached
    assert caplog.text
    assert CANARY not in cached + caplog.text + "".join(capfd.readouterr()) + repr(client) + str(vars(client.usage))


def test_data_that_holds_the_key_is_not_sent(server: FakeServer) -> None:
    with pytest.raises(ServiceError, match="nothing was sent"):
        service(server)[0].ask(Prompt("", f"a row with {CANARY}"))
    assert server.requests == []


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("sk-no-key-required", "Tools are required, or no-key is; nothing is key-required."),
        ("sk-proj-A1b2C3d4E5f6G7h8", "A key begins with sk-proj-."),
        ("none", "There is none."),
    ],
)
def test_words_are_not_taken_for_the_key(server: FakeServer, key: str, text: str) -> None:
    server.behaviours = [completion(text)]
    client, _ = service(server)
    client.environment = {VARIABLE: key}
    assert client.ask(Prompt("", text)).text == text


@pytest.mark.parametrize(
    ("key", "part"),
    [
        (CANARY, CANARY[-12:]),
        (CANARY, CANARY[5:25]),
        ("correct-horse-battery", "the correct-horse-battery"),
        ("s3cr3t-8", "it is s3cr3t-8."),
    ],
)
def test_a_part_of_the_key_is_neither_sent_nor_taken(server: FakeServer, key: str, part: str) -> None:
    server.behaviours = [completion(part)]
    client, _ = service(server)
    client.environment = {VARIABLE: key}
    with pytest.raises(ServiceError, match="nothing was sent"):
        client.ask(Prompt("", part))
    with pytest.raises(ServiceError, match="the answer repeats a part of the API key"):
        client.ask(PROMPT)


@pytest.mark.parametrize(
    "address",
    [
        f"https://user:{CANARY}@host/v1",
        f"https://host/v1?key={CANARY}",
        f"https://host/v1#{CANARY}",
        *("", "host/v1", "file:///etc/passwd", "ftp://host/v1", "https://", "http://[1", f"{CANARY}"),
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused(server: FakeServer, address: str) -> None:
    with pytest.raises(ConfigError, match="base_url") as caught:
        service(server, base_url=address)
    assert CANARY not in str(caught.value)


def test_a_key_in_place_of_its_variable_is_refused_without_repeating_it(server: FakeServer) -> None:
    with pytest.raises(ConfigError, match="key_variable") as caught:
        service(server, key_variable=CANARY)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("key", ["", "  ", "with space", "with\nline", "schlüssel"])
def test_a_key_that_is_none_is_refused_before_anything_is_sent(server: FakeServer, key: str) -> None:
    client, _ = service(server)
    client.environment = {VARIABLE: key}
    with pytest.raises(ConfigError, match=VARIABLE) as caught:
        client.ask(PROMPT)
    assert key.strip() == "" or key not in str(caught.value)
    assert server.requests == []


def test_a_key_file_with_a_final_line_break_works(server: FakeServer) -> None:
    client, _ = service(server)
    client.environment = {VARIABLE: f"{CANARY}\n"}
    client.ask(PROMPT)
    assert server.keys == [f"Bearer {CANARY}"]


@pytest.mark.parametrize("fault", ["timeout_s=0", "max_attempts=0", "max_answer_tokens=0", "input_price=-1"])
def test_senseless_options_are_refused(fault: str) -> None:
    name, value = fault.split("=")
    with pytest.raises(Exo2EgoError, match=name):
        validate_config(ServiceOptions, {"model": "m", name: value}, "test")


def test_a_missing_package_is_named(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ConfigError, match=r"exo2ego\[endpoint\]"):
        service(server)[0].ask(PROMPT)


def test_estimates_are_a_quarter_of_the_characters() -> None:
    assert [estimate_tokens(text) for text in ("", "a", "abcd", "abcde")] == [0, 1, 1, 2]
