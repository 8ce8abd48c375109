"""What is answered stays answered: damaged files, full disks, two runs at once, signals, replaced checkpoints."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from eval import processes
from eval.folder_lock import LOCK_FILE, locked
from eval.predictions import PredictionStore, claim, read_predictions
from exo2ego.errors import DataError, EvaluationError
from exo2ego.records import Prediction, Question
from exo2ego.storage import read_jsonl
from tests.eval.stub_model import StubModel, one_clip_each, run, write_questions
from tests.shared_data import REPOSITORY

NUM_QUESTIONS = 4
NUM_ANSWERS = 3 * NUM_QUESTIONS
REPORTS = ("results.json", "results.csv", "results.md", "results.tex", "report.html")


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_questions(tmp_path_factory.mktemp("setup"), one_clip_each(NUM_QUESTIONS))


def answers(output: Path) -> list[dict[str, Any]]:
    rows = [{**row, "seconds": 0} for row in read_jsonl(output / "predictions.jsonl")]
    return sorted(rows, key=lambda row: (row["id"], row["mode"]))


def said(capsys: pytest.CaptureFixture[str]) -> str:
    told = capsys.readouterr()
    return " ".join((told.out + told.err).split())


def cut_last(data: bytes) -> bytes:
    return data[:-30]


def cut_middle(data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    return b"".join([*lines[:5], lines[5][:40], b"\n", *lines[6:]])


def glue(data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    return b"".join([*lines[:3], lines[3][:-1], *lines[4:]])


def blank(data: bytes) -> bytes:
    return data[:700] + b"\0" * 600 + data[1300:]


def make_nan(data: bytes) -> bytes:
    return data.replace(b'"option_scores": [-1.0,', b'"option_scores": [NaN,', 1)


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], int]] = {
    "the last line cut": (cut_last, 0),
    "a line cut in the middle of the file": (cut_middle, 1),
    "two lines glued together": (glue, 1),
    "a block of zeros": (blank, 1),
    "scores that are no numbers": (make_nan, 1),
    "no text at all": (lambda data: b"\xff\xfe\n" + data, 1),
    "another record": (lambda data: b'{"id": "x"}\n[]\n' + data, 2),
    "nothing left": (lambda data: b"", 0),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_damaged_is_asked_again_and_the_rest_is_kept(
    setup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    damage, num_aside = DAMAGES[name]
    output = tmp_path / "out"
    assert run(StubModel(), setup, output, monkeypatch) == 0
    whole, reports = answers(output), [(output / report).read_bytes() for report in REPORTS]
    path = output / "predictions.jsonl"
    path.write_bytes(damage(path.read_bytes()))
    capsys.readouterr()
    assert run(StubModel(), setup, output, monkeypatch) == 0
    assert answers(output) == whole
    assert [(output / report).read_bytes() for report in REPORTS] == reports
    aside = [path.read_bytes().count(b"\n") for path in output.glob("damaged-*")]
    assert sum(aside) == num_aside
    assert (f"{num_aside} damaged lines are now in damaged-1.predictions.jsonl" in said(capsys)) == bool(num_aside)


@pytest.mark.parametrize("name", ["questions.jsonl", "failures.jsonl"])
def test_other_damaged_files_are_written_again(
    setup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert run(StubModel(), setup, tmp_path, monkeypatch) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / name).write_bytes(b'{"id": "half a li')
    assert run(StubModel(), setup, tmp_path, monkeypatch) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(("text", "code"), [("{", 3), ("[]", 5), ('{"key": 3}', 5), ("", 3)])
def test_a_damaged_description_is_named_before_anything_is_asked(
    setup: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    code: int,
) -> None:
    output = tmp_path / "out"
    assert run(StubModel(), setup, output, monkeypatch) == 0
    (output / "run.json").write_text(text)
    model = StubModel()
    assert run(model, setup, output, monkeypatch) == code
    assert not model.calls
    assert "run.json" in said(capsys)
    assert len(read_predictions(output)) == NUM_ANSWERS


def test_a_changed_checkpoint_or_prompt_starts_afresh(
    setup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other weights under the same path: their hash is another, and no answer is shared."""
    output = tmp_path / "out"
    assert run(StubModel(), setup, output, monkeypatch) == 0
    before = (output / "predictions.jsonl").read_bytes()
    for number, (identity, override) in enumerate([("trained on", "seed=0"), ("trained on", "prompt=careful@1")], 1):
        assert run(StubModel(identity=identity), setup, output, monkeypatch, override) == 0
        assert "this run starts afresh" in said(capsys)
        assert len(list(tmp_path.glob("out.earlier-*"))) == number
    assert before in [path.read_bytes() for path in tmp_path.glob("out.earlier-*/predictions.jsonl")]
    assert len(read_predictions(output)) == NUM_ANSWERS


def test_a_second_run_into_the_same_folder_is_refused(
    setup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    second = {}

    def start_another() -> str:
        second["code"] = run(StubModel(identity="of another"), setup, output, monkeypatch)
        second["said"] = said(capsys)
        return "(B)"

    assert run(StubModel({("generate", 1): start_another}), setup, output, monkeypatch) == 0
    assert second["code"] == EvaluationError.exit_code
    assert "another run is writing into this folder" in second["said"]
    assert not list(tmp_path.glob("out.earlier-*")), "the folder was not moved from under the first run"
    assert len(read_predictions(output)) == NUM_ANSWERS


HOLDER = """
import pathlib, time
from eval.folder_lock import locked
with locked(pathlib.Path({folder!r})):
    print(flush=True)
    time.sleep(600)
"""


def test_a_lock_ends_with_its_process_and_is_shared_by_the_processes_of_a_run(tmp_path: Path) -> None:
    program = HOLDER.format(folder=str(tmp_path))
    holder = subprocess.Popen([sys.executable, "-c", program], cwd=REPOSITORY, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"\n"
    with pytest.raises(EvaluationError, match="another run is writing"), locked(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with (
        locked(tmp_path, shared=True),
        locked(tmp_path, shared=True),
        pytest.raises(EvaluationError, match="another run is writing"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        pass
    assert (tmp_path / LOCK_FILE).read_bytes() == b""


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import errno

    def without(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("eval.folder_lock.fcntl.flock", without)
    with locked(tmp_path):
        pass
    assert "this file system has no locks: let no second run" in said(capsys)


def test_a_full_disk_is_a_message_and_the_next_run_goes_on(
    setup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit on the size of a file stands for the end of the disk: it strikes in the middle of a line."""
    output, whole = tmp_path / "out", tmp_path / "whole"
    assert run(StubModel(), setup, whole, monkeypatch) == 0
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    longest = max(path.stat().st_size for path in whole.iterdir() if path.name in ("run.json", "questions.jsonl"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (longest + 200, former[1]))
    try:
        code = run(StubModel(text="(A)" + " " * 2000), setup, output, monkeypatch)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    assert code == DataError.exit_code
    message = said(capsys)
    assert "predictions.jsonl: cannot be written (File too large); what stands in it is kept" in message
    assert not (output / "predictions.jsonl").read_bytes().endswith(b"\n"), "the last line is half written"
    assert 0 < (output / "predictions.jsonl").read_bytes().count(b"\n") < NUM_ANSWERS
    assert run(StubModel(text="(A)" + " " * 2000), setup, output, monkeypatch) == 0
    assert len(read_predictions(output)) == NUM_ANSWERS


def test_a_folder_that_cannot_be_made_is_a_message(
    setup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    model = StubModel()
    assert run(model, setup, tmp_path / "file" / "out", monkeypatch) == DataError.exit_code
    assert run(model, setup, tmp_path / "file", monkeypatch) == DataError.exit_code
    told = said(capsys)
    assert "Not a directory" in told
    assert "File exists" in told
    assert not model.calls


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_a_message(
    setup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path.chmod(0o500)
    assert run(StubModel(), setup, tmp_path / "out", monkeypatch) == DataError.exit_code
    assert "Permission denied" in said(capsys)


PROGRAM = """
import sys, time
from pathlib import Path
import pytest
from tests.eval.stub_model import StubModel, run
def slowly():
    print("asked", flush=True)
    time.sleep(600)
setup, output = map(Path, sys.argv[1:])
sys.exit(run(StubModel({("generate", 2): slowly}), setup, output, pytest.MonkeyPatch()))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15), (signal.SIGKILL, -9)])
def test_a_signal_loses_nothing_that_was_answered(
    setup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    output = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, setup, output],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "asked\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code
    assert "Traceback" not in errors
    assert (number != signal.SIGINT) or "run the same command again to continue" in errors
    before = (output / "predictions.jsonl").read_bytes()
    assert before.count(b"\n") == 8
    model = StubModel()
    assert run(model, setup, output, monkeypatch) == 0
    assert (output / "predictions.jsonl").read_bytes().startswith(before)
    assert len(read_predictions(output)) == NUM_ANSWERS
    assert model.calls["generate"] == 2


def test_what_a_killed_write_left_is_removed(setup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from exo2ego.storage import atomic_path

    assert run(StubModel(), setup, tmp_path, monkeypatch) == 0
    with atomic_path(tmp_path / "results.json") as temporary:
        mine = temporary.name
        temporary.write_text("{}")
        left = temporary.with_name(mine.replace(f"-{os.getpid()}-", "-999999999-"))
        left.write_text('{"half')
    assert run(StubModel(), setup, tmp_path, monkeypatch) == 0
    assert not left.exists()


def test_clocks_do_not_matter(setup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that jumps back changes nothing but the times, which no report shows."""
    assert run(StubModel(), setup, tmp_path / "one", monkeypatch) == 0
    monkeypatch.setattr(time, "time", lambda: -1e6)
    monkeypatch.setattr(time, "perf_counter", iter(range(10**6, 0, -1)).__next__)
    assert run(StubModel(), setup, tmp_path / "two", monkeypatch) == 0
    assert answers(tmp_path / "one") == answers(tmp_path / "two")
    for report in REPORTS:
        assert (tmp_path / "one" / report).read_bytes() == (tmp_path / "two" / report).read_bytes()


def test_parts_that_were_damaged_are_mended_too(tmp_path: Path) -> None:
    asked = [Question.model_validate(row) for row in one_clip_each(2)]
    claim(tmp_path, {"k": 1}, {}, asked)
    rows = [
        Prediction(
            id=row.question_id, task=row.task, mode="letter", prompt_hash="h", num_options=5, video="v", seconds=1
        )
        for row in asked
    ]
    for number, row in enumerate(rows):
        with PredictionStore(tmp_path, {"k": 1}, {}, part=number) as store:
            store.add(row)
    part = tmp_path / "predictions.jsonl.part-1"
    part.write_bytes(b"garbage\n" + part.read_bytes() + b'{"half')
    with PredictionStore(tmp_path, {"k": 1}, {}, asked) as store:
        assert list(store.done.values()) == rows
    assert (tmp_path / "damaged-1.predictions.jsonl.part-1").read_bytes() == b"garbage\n"


def test_processes_wait_for_each_other_longer_than_clips_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual time-outs of a collective call, 10 and 30 minutes, would end a run of hours at its last barrier."""
    told: dict[str, Any] = {}

    class State:
        is_main_process, process_index, num_processes = True, 0, 2

        def __init__(self, **options: Any) -> None:
            told.update(options)

        def wait_for_everyone(self) -> None: ...

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("accelerate.PartialState", State)
    assert processes.join_processes().count == 2
    assert told["timeout"] >= timedelta(days=1)
