"""A made-up language-model endpoint on 127.0.0.1 that does what a test tells it to, over real HTTP."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CANARY = "sk-canary-0123456789-abcdefghij-KLMNOP"
"""The key of the tests: it must appear in the header of a request and nowhere else."""


class FakeServer:
    """Answers request number n with behaviour n, the last one from then on; keeps what it was sent."""

    def __init__(self) -> None:
        self.behaviours: list[Behaviour] = []
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.hang = threading.Event()
        """Set when the test is over, so that a behaviour that waits ends."""
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        """The base_url of the endpoint."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Ends all threads."""
        self.hang.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with server._lock:
                    number = len(server.requests)
                    server.requests.append(json.loads(body or b"{}"))
                    server.keys.append(self.headers.get("Authorization", ""))
                server.behaviours[min(number, len(server.behaviours) - 1)](self)

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                pass

        return Handler


Behaviour = Callable[[BaseHTTPRequestHandler], None]


@contextlib.contextmanager
def fake_server(*behaviours: Behaviour) -> Iterator[FakeServer]:
    """Runs a server for the time of a `with` block."""
    server = FakeServer()
    server.behaviours = list(behaviours)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def respond(
    status: int, body: bytes, content_type: str = "application/json", pause_s: float = 0, **headers: str
) -> Behaviour:
    """Sends a response as it is; with a pause, byte by byte."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a client that no longer waits
            handler.send_response(status)
            handler.send_header("Content-Type", content_type)
            for name, value in headers.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            for byte in body if pause_s else ():
                time.sleep(pause_s)
                handler.wfile.write(bytes([byte]))
            handler.wfile.write(b"" if pause_s else body)

    return behave


def completion(
    text: str | None, *, finish_reason: str = "stop", tokens: tuple[int, int] | None = (100, 50)
) -> Behaviour:
    """Answers with a chat completion."""
    body: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "made-up",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}],
    }
    if tokens is not None:
        body["usage"] = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    return respond(200, json.dumps(body).encode())


def failure(status: int, message: str = "made-up failure", code: str | None = None, **headers: str) -> Behaviour:
    """Answers with an error in OpenAI's form."""
    body = json.dumps({"error": {"message": message, "type": "made_up", "code": code}}).encode()
    return respond(status, body, **headers)


def hang(server: Callable[[], FakeServer]) -> Behaviour:
    """Never answers, until the test is over."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        server().hang.wait(30)
        handler.close_connection = True

    return behave


def reset(handler: BaseHTTPRequestHandler) -> None:
    """Cuts the connection as a crashed server does."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.shutdown(socket.SHUT_RD)
    handler.connection.close()
    handler.close_connection = True
    handler.wfile = open("/dev/null", "wb")  # noqa: SIM115  (http.server flushes it after the request)


def echo_key(status: int) -> Behaviour:
    """Answers with the key it was sent, as careless proxies do: in the message, the body and a header."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        key = handler.headers.get("Authorization", "")
        if status == 200:
            completion(f"Your key is {key}.")(handler)
        else:
            failure(status, f"Incorrect API key provided: {key}")(handler)

    return behave
