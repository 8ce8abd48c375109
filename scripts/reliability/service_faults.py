"""Lets the judge and an endpoint as a model work through injected faults, and counts what was lost, paid or told.

    python -m scripts.reliability.service_faults [--seed 0] [--errors 1000]

Half of the faults strike `python -m eval.judge`, half `python -m eval.egobench model=endpoint:…`, over real HTTP on
127.0.0.1; only the pauses between attempts are left out. A command that gives up is run again, until it is done.
Exits with 1 where a verdict or an answer is missing or another one's, where more was paid than must be, where anybody
else was sent anything, or where the key shows anywhere.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import gzip
import io
import json
import logging
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote

from eval import egobench, judge
from eval.answerers import loading
from eval.predictions import read_predictions
from eval.reporting.open_measures import JUDGEMENTS_FILE
from exo2ego.console import console
from exo2ego.language_service import LanguageService
from exo2ego.storage import read_json, write_jsonl
from scripts.reliability.tables import markdown
from tests.eval.evaluation_setup import NUM_TAKES, question_row, write_video
from tests.eval.open_folder import write_open_folder
from tests.fake_language_server import (
    CANARY,
    Behaviour,
    FakeServer,
    completion,
    echo_key,
    failure,
    fake_server,
    reset,
    respond,
)

TIMEOUT_S = 1.5
FAULT_SHARE = 0.6
BAD_VERDICTS = (
    "I think the answer is right.",
    "{'pred': 'yes', 'score': 9}",
    "{'pred': 'yes', 'score': 'five'}",
    "{'pred': 'maybe', 'score': 3}",
    "{" * 3000,
    "{'pred': 'yes', 'score': 5} " + "x" * 2**20,
)
"""Answers of a judge that are no verdicts; each is paid for, and asked for again."""
MOST_BAD_VERDICTS = 2
"""For one answer: a third would be counted as no verdict."""
NUM_PER_ROUND = 60


class FaultyServer:
    """Answers what `truth` says, or with a fault that is drawn by chance; counts both."""

    def __init__(
        self, chance: random.Random, truth: Callable[[str], str], bad: tuple[str, ...], elsewhere: str
    ) -> None:
        self.chance, self.truth, self.bad = chance, truth, bad
        self.server: FakeServer | None = None
        self.injected: Counter[str] = Counter()
        self.bad_verdicts: Counter[str] = Counter()
        self.num_paid = 0
        self.faults: dict[str, Behaviour] = {
            "429": failure(429),
            "429, Retry-After": failure(429, Retry_After="0.01"),
            "500": failure(500),
            "503, HTML": respond(503, b"<html>Bad gateway</html>", content_type="text/html"),
            "time-out": self._hang,
            "connection reset": reset,
            "garbage": respond(200, bytes(range(256))),
            "cut JSON": respond(200, b'{"choices": [{"message": {"content": "{\'pr'),
            "HTML": respond(200, b"<html>Sign in</html>", content_type="text/html"),
            "packed": respond(200, gzip.compress(b"{}"), Content_Encoding="gzip"),
            "no choice": respond(200, b'{"choices": []}'),
            "key echoed, 500": echo_key(500),
            "key echoed, 401": echo_key(401),
            "redirect to another host": respond(307, b"", Location=f"{elsewhere}/chat/completions"),
        }

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        """Answers one request."""
        assert self.server is not None
        asked = json.dumps(self.server.requests[-1]["messages"])
        if self.chance.random() < FAULT_SHARE:
            kind = self.chance.choice([*self.faults, *(["no verdict"] * 3 if self.bad else [])])
            if kind != "no verdict":
                self.injected[kind] += 1
                self.faults[kind](handler)
                return
            if self.bad_verdicts[asked] < MOST_BAD_VERDICTS:
                self.bad_verdicts[asked] += 1
                self.injected[kind] += 1
                completion(self.chance.choice(self.bad))(handler)
                return
        self.num_paid += 1
        completion(self.truth(asked))(handler)

    def _hang(self, handler: BaseHTTPRequestHandler) -> None:
        assert self.server is not None
        self.server.hang.wait(4 * TIMEOUT_S)
        handler.close_connection = True


def number_in(asked: str) -> int:
    """Returns the number by which a made-up question or answer is known."""
    found = re.search(r"number (\d+)", asked)
    assert found is not None, asked[:300]
    return int(found[1])


def verdict(asked: str) -> str:
    """Returns the verdict on an answer."""
    number = number_in(asked)
    return str({"pred": "yes" if number % 2 else "no", "score": number % 6})


def letter(asked: str) -> str:
    """Returns the answer to a question."""
    return f"({'ABCDE'[number_in(asked) % 5]})"


def judge_round(folder: Path, url: str, place: int) -> tuple[int, int]:
    """Judges a folder of answers until the command succeeds; returns (how many were wanted, how many are right)."""
    names = [f"q{place + number}" for number in range(NUM_PER_ROUND)]
    write_open_folder(folder, {name: (f"true {name}", f"answer number {name[1:]}") for name in names})
    command = ["--folder", str(folder), "--model", "made-up-2024", "--base-url", url, "--timeout-s", str(TIMEOUT_S)]
    _until_done(lambda: judge.main(command))
    judged = {row["question_id"]: row for row in read_json(folder / JUDGEMENTS_FILE)["judgements"]}
    expected = {name: judge.parse_verdict(verdict(f"number {name[1:]}")) for name in names}
    right = [name for name in names if (judged[name]["is_correct"], judged[name]["score"]) == expected[name]]
    return len(names), len(right)


def endpoint_round(folder: Path, url: str, place: int) -> tuple[int, int]:
    """Puts questions to the endpoint until all are answered; returns (how many were wanted, how many are right)."""
    for take in range(NUM_TAKES):
        write_video(folder / "videos" / f"take{take}" / "ego.mp4", seed=take)
    rows = [
        question_row(number, start=0.01 * (number % 40), question=f"Which is number {place + number}?")
        for number in range(NUM_PER_ROUND)
    ]
    write_jsonl(folder / "questions.jsonl", rows)
    out = folder / "out"
    paths = [f"data.root={folder / 'videos'}", f"data.questions={folder / 'questions.jsonl'}", f"output={out}"]
    service = [f"endpoint.base_url={url}", f"endpoint.timeout_s={TIMEOUT_S}", "num_frames=2", "max_failure_rate=1"]
    command = ["model=endpoint:made-up-2024", "modes=[generate]", *paths, *service]
    _until_done(lambda: egobench.main(command) or (len(read_predictions(out)) < len(rows)))
    found = {row.question_id: row.raw_output for row in read_predictions(out)}
    right = [row for row in rows if found.get(row["id"]) == letter(row["question"])]
    return len(rows), len(right)


def _until_done(command: Callable[[], int]) -> None:
    for _ in range(200):
        if not command():
            return
    raise SystemExit("a command did not come to its end in 200 runs")


ROUNDS = {"judge": (judge_round, verdict, BAD_VERDICTS), "endpoint": (endpoint_round, letter, ())}


@contextlib.contextmanager
def without_pauses(told: io.StringIO) -> Iterator[None]:
    """Leaves the pauses between attempts out, gives the key, and notes all that is printed or logged, at DEBUG."""
    handler = logging.StreamHandler(told)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    hasty = partial(LanguageService, sleep=lambda _: None)
    try:
        with (
            mock.patch.object(judge, "LanguageService", hasty),
            mock.patch.object(loading, "LanguageService", hasty),
            mock.patch.dict(os.environ, {"OPENAI_API_KEY": CANARY}),
            contextlib.redirect_stdout(told),
            contextlib.redirect_stderr(told),
        ):
            yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def forms_of_key() -> dict[str, bytes]:
    """Returns the forms in which the key could have leaked."""
    encoded = base64.b64encode(CANARY.encode()).rstrip(b"=")[:-1]
    return {
        "raw": CANARY.encode(),
        "quoted": quote(CANARY, safe="").encode(),
        "base64": encoded,
        "part": CANARY[:9].encode(),
    }


def leaks(folder: Path, told: str) -> list[str]:
    """Returns where the key shows: in a file below `folder`, its name, or in what was printed and logged."""
    found = [f"output: {form}" for form, sign in forms_of_key().items() if sign in told.encode()]
    for path in (path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes() + path.name.encode()
        found += [f"{path.name}: {form}" for form, sign in forms_of_key().items() if sign in data]
    return found


def strike(who: str, num_errors: int, folder: Path, chance: random.Random) -> tuple[list[Any], list[str]]:
    """Injects errors into one command; returns its row of the table, and what is wrong."""
    run_round, truth, bad = ROUNDS[who]
    told, place, num_wanted, num_right = io.StringIO(), 0, 0, 0
    with fake_server(completion("elsewhere")) as elsewhere:
        faulty = FaultyServer(chance, truth, bad, elsewhere.url)
        with fake_server(faulty) as server, without_pauses(told):
            faulty.server = server
            while faulty.injected.total() < num_errors:
                wanted, right = run_round(folder / f"{who}{place}", server.url, place)
                num_wanted, num_right, place = num_wanted + wanted, num_right + right, place + wanted
        num_elsewhere = len(elsewhere.requests)
    leaked = leaks(folder, told.getvalue())
    ratio = faulty.num_paid / num_wanted
    wrong = [f"{who}: {name}" for name in leaked]
    wrong += [f"{who}: {num_wanted - num_right} of {num_wanted} are missing or wrong"] if num_right < num_wanted else []
    wrong += [f"{who}: paid for {ratio:.3f} times what was wanted"] if ratio > 1.02 else []
    wrong += [f"{who}: another host was sent {num_elsewhere} requests"] if num_elsewhere else []
    kinds = "; ".join(f"{count} {kind}" for kind, count in sorted(faulty.injected.items()))
    row = [who, faulty.injected.total(), num_wanted, num_wanted - num_right, f"{ratio:.3f}", len(leaked), num_elsewhere]
    return [*row, kinds], wrong


def report(rows: list[list[Any]]) -> str:
    """Returns what the documentation shows."""
    heads = (
        "command",
        "faults",
        "wanted",
        "lost or wrong",
        "paid per wanted",
        "leaks of the key",
        "sent elsewhere",
        "which",
    )
    return markdown(heads, rows)


def main() -> int:
    """Runs both and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="decides which request fails, and how (default 0)")
    parser.add_argument("--errors", type=int, default=1000, help="faults to inject in all, at least (default 1000)")
    options = parser.parse_args()
    began, rows, wrong = time.monotonic(), [], []
    with tempfile.TemporaryDirectory() as temporary:
        for who in ROUNDS:
            chance = random.Random(f"{options.seed} {who}")
            row, faults = strike(who, -(-options.errors // 2), Path(temporary) / who, chance)
            rows.append(row)
            wrong += faults
    print(report(rows), flush=True)
    console.print("\n".join(wrong) or "nothing wrong", markup=False)
    console.print(f"seed {options.seed}, {time.monotonic() - began:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
