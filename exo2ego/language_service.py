"""A client of any OpenAI-compatible endpoint: retries, time-outs, a disk cache, and an account of tokens and cost.

The key comes from an environment variable and goes to the endpoint's address alone: redirects are not followed, and no
log, error, cache or output holds it.
"""

from __future__ import annotations

import contextlib
import email.utils
import json
import math
import os
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError

from exo2ego.config import Config
from exo2ego.console import error_console
from exo2ego.errors import ConfigError, DataError, ServiceError
from exo2ego.language_prompt import Prompt
from exo2ego.storage import hash_text, read_json, write_json

if TYPE_CHECKING:
    from openai import APIStatusError, OpenAI

LONGEST_WAIT_S = 120.0
"""A server that asks for a longer pause is not waited for."""
LONGEST_BACKOFF_S = 30.0
QUOTED_CHARACTERS = 300
CHARACTERS_PER_TOKEN = 4
"""About, for English text; only estimates use it."""
LONGEST_BODY_BYTES = 16 * 2**20
"""More than any answer; a body beyond it is not read."""
_SECRET_CHARACTERS = 8
_SECRET_PART_CHARACTERS = 12
_RETRIED_STATUS = {408, 409, 425, 429}
_REQUEST_STATUS = {400, 413, 422}


class RefusedError(ServiceError):
    """The endpoint works, but not for this request: it is too long, or not to the taste of a filter."""


class NoTextError(RefusedError):
    """The endpoint answers this request without a text, however often it is asked."""


class ServiceOptions(Config):
    """Which model at which endpoint, and how patiently it is asked."""

    model: str
    """Name of the model at the endpoint."""
    base_url: str = "https://api.openai.com/v1"
    """Address of an OpenAI-compatible endpoint, for example http://localhost:8000/v1 of a local server."""
    key_variable: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key (never the key itself)."""
    timeout_s: float = Field(default=60, gt=0)
    """Seconds to wait for an answer, from the request to its last byte."""
    max_attempts: int = Field(default=6, ge=1)
    """Attempts per request while the endpoint is busy, failing or out of reach, with growing pauses between them."""
    max_answer_tokens: int = Field(default=2000, ge=1)
    """Longest answer, in tokens."""
    limit_parameter: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """How the endpoint calls the longest answer; newer models of OpenAI want max_completion_tokens."""
    temperature: float | None = Field(default=None, ge=0)
    """Sampling temperature (default: the endpoint's own)."""
    cache: Path | None = None
    """Folder for answers: a request that was answered once is not sent again."""
    input_price: float | None = Field(default=None, ge=0)
    """Price of a million input tokens, for the report."""
    output_price: float | None = Field(default=None, ge=0)
    """Price of a million output tokens, for the report."""


class Answer(BaseModel):
    """What the model answered; token counts are None where the endpoint does not tell."""

    text: str
    finish_reason: str | None = None
    """`length` where the answer was cut off at the longest one."""
    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass
class Usage:
    """What the requests of a run took; answers from the cache take nothing."""

    calls: int = 0
    cached_answers: int = 0
    retries: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    calls_without_count: int = 0
    """Of `calls`, those without token counts."""

    def add(self, answer: Answer) -> None:
        """Adds an answered call."""
        self.calls += 1
        if answer.input_tokens is None or answer.output_tokens is None:
            self.calls_without_count += 1
        self.input_tokens += answer.input_tokens or 0
        self.output_tokens += answer.output_tokens or 0

    def cost(self, options: ServiceOptions) -> float | None:
        """Returns the cost in the unit of the prices, None where they are not given."""
        return token_cost(self.input_tokens, self.output_tokens, options)


def token_cost(input_tokens: int, output_tokens: int, options: ServiceOptions) -> float | None:
    """Returns the cost of token counts in the unit of the prices, None where they are not given."""
    if options.input_price is None or options.output_price is None:
        return None
    return (input_tokens * options.input_price + output_tokens * options.output_price) / 1e6


def estimate_tokens(text: str) -> int:
    """Returns about how many tokens a text has."""
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)


class _Message(BaseModel):
    content: str | None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Tokens(BaseModel):
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)


class _Completion(BaseModel):
    """The part of a chat completion that is read."""

    choices: list[_Choice] = Field(min_length=1)
    usage: _Tokens | None = None


@dataclass(frozen=True)
class _Fault:
    """Why an attempt failed, in words without a secret."""

    message: str
    is_temporary: bool
    wait_s: float | None = None
    """How long the server asks to wait."""
    error: type[ServiceError] = ServiceError
    """What is raised where it lasts."""


class _UnreadBodyError(Exception):
    """Why a body was not read to its end, in words without a secret."""


@dataclass
class LanguageService:
    """Answers prompts through an endpoint or its cache. Raises `ConfigError` for an unsafe address or key variable."""

    options: ServiceOptions
    sleep: Callable[[float], None] = time.sleep
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    usage: Usage = field(default_factory=Usage)
    _client: OpenAI | None = field(default=None, init=False, repr=False)
    _key: str = field(default="", init=False, repr=False)
    _deadline_s: float = field(default=math.inf, init=False, repr=False)
    """When the request under way has taken too long, on the monotonic clock."""

    def __post_init__(self) -> None:
        _check_address(self.options.base_url)
        if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.options.key_variable):
            raise ConfigError(
                "key_variable: expected the name of an environment variable in capital letters, for example "
                "OPENAI_API_KEY (what was given is not shown, in case it is the key itself)"
            )

    def ask(self, prompt: Prompt, sample: int = 0) -> Answer:
        """Returns the answer to a prompt; another `sample` number asks for another answer to the same prompt.

        Raises `ServiceError` when the endpoint does not answer within the attempts (`RefusedError`, `NoTextError` where
        that is about this request alone), `ConfigError` without a key.
        """
        request = self._request(prompt)
        cached = self._cache_file({**request, "base_url": self.options.base_url, "sample": sample})
        if cached is not None and cached.exists():
            self.usage.cached_answers += 1
            return _read_answer(cached)
        answer = self._call_with_retries(request)
        self.usage.add(answer)
        if cached is not None:
            write_json(cached, answer.model_dump())
        return answer

    def _request(self, prompt: Prompt) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": self.options.model,
            "messages": prompt.messages(),
            self.options.limit_parameter: self.options.max_answer_tokens,
        }
        if self.options.temperature is not None:
            request["temperature"] = self.options.temperature
        return request

    def _cache_file(self, request: Mapping[str, Any]) -> Path | None:
        name = f"{hash_text(json.dumps(request, sort_keys=True))}.json"
        return self.options.cache / name if self.options.cache is not None else None

    def _call_with_retries(self, request: Mapping[str, Any]) -> Answer:
        client = self._connected()
        if self._repeats_key(json.dumps(request)):
            raise RefusedError("the request holds a part of the API key; nothing was sent: remove it from the data")
        attempt = 0
        while True:
            attempt += 1
            outcome = self._call(client, request)
            if isinstance(outcome, Answer):
                return outcome
            if not outcome.is_temporary or attempt == self.options.max_attempts:
                tried = f" (after {attempt} attempts)" if attempt > 1 else ""
                raise outcome.error(f"{self.options.base_url}: {outcome.message}{tried}")
            self._pause(outcome, attempt)

    def _pause(self, fault: _Fault, attempt: int) -> None:
        wait_s = fault.wait_s
        if wait_s is None:
            wait_s = min(2.0 ** (attempt - 1), LONGEST_BACKOFF_S) * random.uniform(0.5, 1)
        elif wait_s > LONGEST_WAIT_S:
            raise ServiceError(
                f"{self.options.base_url}: {fault.message}; it asks to wait {wait_s:.0f} s: run the command again then"
            )
        error_console.print(
            f"{fault.message}; attempt {attempt + 1} of {self.options.max_attempts} in {wait_s:.1f} s", markup=False
        )
        self.usage.retries += 1
        self.sleep(wait_s)

    def _connected(self) -> OpenAI:
        if self._client is None:
            try:
                from openai import DefaultHttpxClient, OpenAI
            except ModuleNotFoundError as error:
                raise ConfigError("an endpoint needs the package `openai`: pip install 'exo2ego[endpoint]'") from error
            self._key = _read_key(self.environment, self.options.key_variable)
            self._client = OpenAI(
                api_key=self._key,
                base_url=self.options.base_url,
                max_retries=0,
                timeout=self.options.timeout_s,
                http_client=DefaultHttpxClient(
                    follow_redirects=False,
                    headers={"Accept-Encoding": "identity"},
                    event_hooks={"response": [self._read_body]},
                ),
            )
        return self._client

    def _call(self, client: OpenAI, request: Mapping[str, Any]) -> Answer | _Fault:
        """Sends a request once. The library's errors, whose parts may hold the key, end here."""
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        self._deadline_s = time.monotonic() + self.options.timeout_s
        try:
            raw = client.chat.completions.with_raw_response.create(**request)
        except APITimeoutError:
            return _Fault(self._too_late(), is_temporary=True)
        except (APIConnectionError, _UnreadBodyError) as error:  # versions of the library wrap what a hook raises
            cause = error if isinstance(error, _UnreadBodyError) else error.__cause__
            failed = f"the connection failed ({type(cause).__name__})"
            return _Fault(str(cause) if isinstance(cause, _UnreadBodyError) else failed, is_temporary=True)
        except APIStatusError as error:
            return self._status_fault(error)
        return self._read_completion(raw.http_response.content)

    def _read_body(self, response: Any) -> None:
        """Reads a body (an httpx response's) before the library does, whose time-out is that of one read."""
        if response.headers.get("content-encoding", "identity") != "identity":  # could unpack to any size
            raise _UnreadBodyError("the answer is compressed, which was not asked for")
        body = bytearray()
        with contextlib.closing(response.stream) as stream:
            for chunk in stream:
                body += chunk
                if time.monotonic() > self._deadline_s:
                    raise _UnreadBodyError(self._too_late())
                if len(body) > LONGEST_BODY_BYTES:
                    raise _UnreadBodyError(f"the answer is longer than {LONGEST_BODY_BYTES:,} bytes")
        response.stream = type(response)(200, content=bytes(body)).stream

    def _too_late(self) -> str:
        return f"no answer within {self.options.timeout_s:g} s"

    def _read_completion(self, body: bytes) -> Answer | _Fault:
        try:
            completion = _Completion.model_validate_json(body)
        except ValidationError:
            return _Fault("what came back is not a chat completion", is_temporary=True)
        choice, tokens = completion.choices[0], completion.usage
        text = choice.message.content
        if text is None:
            return _Fault("what came back is not a chat completion with a text", True, error=NoTextError)
        if self._repeats_key(text):
            return _Fault("the answer repeats a part of the API key and is not used", False, error=RefusedError)
        return Answer(
            text=text,
            finish_reason=choice.finish_reason,
            input_tokens=tokens.prompt_tokens if tokens else None,
            output_tokens=tokens.completion_tokens if tokens else None,
        )

    def _status_fault(self, error: APIStatusError) -> _Fault:
        status = error.status_code
        if 300 <= status < 400:
            told = f"the server redirects (status {status}), which is not followed, because the key is meant for this "
            return _Fault(f"{told}address alone; give the final address as base_url", is_temporary=False)
        is_temporary = (status in _RETRIED_STATUS or status >= 500) and error.code != "insufficient_quota"
        advice = {
            401: f"; is the key in ${self.options.key_variable} right?",
            403: f"; may the key in ${self.options.key_variable} use this model?",
            404: f"; is `{self.options.model}` a model of it, and should the address end in /v1?",
        }.get(status, "")
        message = f"status {status}{self._quoted(error.body)}{advice}"
        kind = RefusedError if status in _REQUEST_STATUS else ServiceError
        return _Fault(message, is_temporary, _seconds_to_wait(error.response.headers.get("retry-after")), kind)

    def _quoted(self, body: object) -> str:
        """Returns what the server says of an error, cut and without control characters; nothing if it holds the key."""
        told = body.get("message", body) if isinstance(body, dict) else body
        text = " ".join("".join(c if c.isprintable() else " " for c in str(told or "")).split())
        if text and self._repeats_key(str(body)):
            return ", its message is withheld: it repeats a part of the key"
        return f": {text[:QUOTED_CHARACTERS]}" if text else ""

    def _repeats_key(self, text: str) -> bool:
        """Says whether a text holds the key or a part of it that could serve someone.

        A key like `none` is no secret, nor is a part of small letters alone: `no-key-required` is made of words.
        """
        length = _SECRET_PART_CHARACTERS
        parts = (self._key[start : start + length] for start in range(len(self._key) - length + 1))
        if len(self._key) >= _SECRET_CHARACTERS and self._key in text:
            return True
        return any(part in text for part in parts if re.search("[A-Z0-9]", part))


def _check_address(base_url: str) -> None:
    try:
        parts = urlsplit(base_url)
        is_plain = parts.username is None and parts.password is None and not parts.query and not parts.fragment
        is_address = parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        is_plain = is_address = False
    if not (is_plain and is_address):
        raise ConfigError(
            "base_url: expected http(s)://host[:port]/path without a user, password, query or fragment (what was given "
            "is not shown, in case it holds a key)"
        )


def _read_key(environment: Mapping[str, str], variable: str) -> str:
    key = environment.get(variable, "").strip()
    if not key:
        raise ConfigError(
            f"the environment variable {variable} holds no API key; set it (a local server takes any text)"
        )
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(f"the environment variable {variable} holds characters that no API key has")
    return key


def _seconds_to_wait(retry_after: str | None) -> float | None:
    """Reads the header Retry-After: seconds or a date."""
    if retry_after is None:
        return None
    try:
        wait_s = float(retry_after)
    except ValueError:
        try:
            wait_s = email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(wait_s, 0.0) if math.isfinite(wait_s) else None


def _read_answer(path: Path) -> Answer:
    try:
        return Answer.model_validate(read_json(path, "cached answer"))
    except ValidationError as error:
        raise DataError(f"{path}: is not an answer of this cache; remove it and run again") from error
