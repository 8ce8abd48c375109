"""Files are complete or absent: under exceptions, `kill -9`, a full disk, and half-written lines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo2ego import storage
from exo2ego.errors import DataError
from tests.shared_data import REPOSITORY


def start_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_when_it_says(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline().strip() == word
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_a_failure_keeps_the_former_file_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "result.json"
    storage.write_json(path, {"first": "é"})
    with pytest.raises(UnicodeEncodeError), storage.atomic_path(path) as temporary, temporary.open("w") as stream:
        stream.writelines(["half", "\ud800"])
    assert storage.read_json(path) == {"first": "é"}
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_in_the_rows_writes_no_file(tmp_path: Path) -> None:
    def rows() -> Any:
        yield {"row": 1}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        storage.write_jsonl(tmp_path / "rows.jsonl", rows())
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_are_not_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        storage.write_json(tmp_path / "result.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def make_folder(folder: Path, content: str) -> None:
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "file.txt").write_text(content, encoding="utf-8")


def test_a_folder_replaces_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "step_000010"
    for content in ("first", "second"):
        with storage.atomic_path(path) as temporary:
            make_folder(temporary, content)
    assert (path / "inner" / "file.txt").read_text(encoding="utf-8") == "second"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_replaced_stands_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "step_000010"
    make_folder(path, "first")
    replace = os.replace

    def fail_on_the_new_one(source: Path, target: Path) -> None:
        if Path(target) == path and "former" not in Path(source).name:
            raise OSError("no")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_on_the_new_one)
    with pytest.raises(OSError, match="no"), storage.atomic_path(path) as temporary:
        make_folder(temporary, "second")
    assert (path / "inner" / "file.txt").read_text(encoding="utf-8") == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_write_keeps_the_former_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    storage.write_json(path, {"run": 1})
    writer = start_python(
        """
        import sys, time
        from pathlib import Path
        from exo2ego.storage import atomic_path
        with atomic_path(Path(sys.argv[1])) as temporary:
            temporary.write_text('{"run":')
            print("half", flush=True)
            time.sleep(60)
        """,
        path,
    )
    kill_when_it_says(writer, "half")
    assert storage.read_json(path) == {"run": 1}
    (leftover,) = set(tmp_path.iterdir()) - {path}
    assert storage.remove_leftovers(tmp_path) == [leftover]
    assert list(tmp_path.iterdir()) == [path]
    assert storage.remove_leftovers(tmp_path / "absent") == []


def test_what_others_write_or_own_is_no_leftover(tmp_path: Path) -> None:
    for name in ("thesis.partial-draft", "notes.partial-2.txt", "rows.jsonl.partial-0a1b2c3d"):
        (tmp_path / name).mkdir()
    with storage.atomic_path(tmp_path / "rows.jsonl") as temporary:  # of a process that runs: this one
        temporary.write_text("half")
        assert storage.remove_leftovers(tmp_path) == []
        assert temporary.exists()
    elsewhere = tmp_path / f"rows.jsonl.partial-{'0' * 6}-1-{'0' * 8}"
    elsewhere.touch()
    assert storage.remove_leftovers(tmp_path) == []


def test_what_was_appended_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    writer = start_python(
        """
        import sys, time
        from pathlib import Path
        from exo2ego.storage import JsonlAppender
        appender = JsonlAppender(Path(sys.argv[1]))
        for step in range(100):
            appender.append({"step": step})
        print("written", flush=True)
        time.sleep(60)
        """,
        path,
    )
    kill_when_it_says(writer, "written")
    assert [row["step"] for row in storage.read_jsonl(path)] == list(range(100))


def test_a_full_disk_is_one_message_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    storage.write_jsonl(path, [{"row": 0}])
    writer = start_python(
        """
        import resource, sys
        from pathlib import Path
        from exo2ego.command_line import run_safely
        from exo2ego.storage import write_jsonl
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, unlimited[1]))
        rows = ({"row": row} for row in range(10_000))
        exit_code = run_safely(lambda: write_jsonl(Path(sys.argv[1]), rows), debug=False)
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        sys.exit(exit_code)
        """,
        path,
    )
    _, errors = writer.communicate(timeout=60)
    assert writer.returncode == DataError.exit_code
    assert errors.startswith(f"error {path}: the disk is full")
    assert "nothing was changed" in errors
    assert errors.count("\n") == 1
    assert list(storage.read_jsonl(path)) == [{"row": 0}]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_while_appending_is_one_message() -> None:
    writer = start_python(
        """
        import sys
        from exo2ego.command_line import run_safely
        sys.exit(run_safely(lambda: open("/dev/full", "w", buffering=1).write("row\\n"), debug=False))
        """
    )
    _, errors = writer.communicate(timeout=60)
    assert (writer.returncode, errors.splitlines()[0]) == (3, "error while writing: No space left on device")


def test_free_space_is_checked_before_work_starts(tmp_path: Path) -> None:
    storage.require_free_space(tmp_path / "new", 1, "a checkpoint")
    with pytest.raises(DataError, match=r"a checkpoint needs 1000000000\.00 GB, only .* GB are free"):
        storage.require_free_space(tmp_path, 10**18, "a checkpoint")


def test_opening_an_appender_cuts_a_half_line(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "metrics.jsonl"
    with storage.JsonlAppender(path) as appender:
        appender.append({"step": 1})
        assert appender.removed_bytes == 0
    path.write_bytes(path.read_bytes() + b'{"step": 2, "lo')
    with storage.JsonlAppender(path) as appender:
        assert appender.removed_bytes == 15
        appender.append({"step": 2})
    assert list(storage.read_jsonl(path)) == [{"step": 1}, {"step": 2}]


@given(st.lists(st.integers(0, 99), max_size=5), st.integers(0, 200))
def test_wherever_a_file_is_cut_whole_lines_stay(tmp_path_factory: Any, steps: list[int], size: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "metrics.jsonl"
    storage.write_jsonl(path, ({"step": step} for step in steps))
    with path.open("r+b") as stream:
        stream.truncate(min(size, path.stat().st_size))
    whole = path.read_bytes().count(b"\n")
    storage.JsonlAppender(path).close()
    assert [row["step"] for row in storage.read_jsonl(path)] == steps[:whole]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"row": 1}\n{"row": 2', "line 2 of the clip table is not valid JSON"),
        (b'{"row": 1}\n\n[1]\n', "line 3: expected a JSON object, got list"),
        (b'{"row": 1}\n\xff\xfe\n', "the clip table is not UTF-8 text"),
        (None, "clip table cannot be read: No such file"),
    ],
)
def test_a_damaged_jsonl_file_is_one_message(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "clips.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(storage.read_jsonl(path, "clip table"))
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"takes":\n [1, 2', "takes.json is not valid JSON: line 2, column 7"),
        (b"", "takes.json is not valid JSON: line 1, column 1"),
        (b"\xff", "takes.json cannot be read"),
        (None, "takes.json not found"),
    ],
)
def test_a_damaged_json_file_is_one_message(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "takes.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        storage.read_json(path, "takes.json")
    assert str(caught.value).startswith(f"{path}: {message}")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(st.dictionaries(st.text(), values, max_size=3), max_size=4))
def test_rows_read_back_as_written(tmp_path_factory: Any, rows: list[dict[str, Any]]) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    assert storage.write_jsonl(path, rows) == len(rows)
    assert list(storage.read_jsonl(path)) == rows
    assert len(path.read_text(encoding="utf-8").split("\n")) == len(rows) + 1


def test_hashes_are_sha256(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    assert storage.hash_file(path) == storage.hash_text("abc") == expected
