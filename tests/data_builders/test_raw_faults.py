"""Every reader on bad input: no traceback, no partial output, an error that names the file and the row."""

from __future__ import annotations

import csv
import io
import json
import shutil
import signal
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_builders.source import build_source
from exo2ego.errors import DataError
from exo2ego.raw import files as raw_files
from exo2ego.raw import json_stream
from tests.data_builders.fuzz_readers import (
    ALL_SOURCES,
    RawSource,
    _too_long,
    annotation_files,
    fuzz,
    outcome,
    raw_source,
    use_stub_encoder,
)

NAMES = [name for _, name in ALL_SOURCES]


@pytest.fixture(params=ALL_SOURCES, ids=NAMES)
def raw(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RawSource:
    """Each source, its raw files written to `tmp_path / "raw"`."""
    kind, name = request.param
    use_stub_encoder(monkeypatch.setattr)
    source = raw_source(kind, name)
    source.write(tmp_path / "raw")
    return source


@pytest.fixture(autouse=True)
def _deadline() -> Iterator[None]:
    former = signal.signal(signal.SIGPROF, _too_long)
    yield
    signal.signal(signal.SIGPROF, former)


def refusal(raw: RawSource, folder: Path) -> str | None:
    """Builds; returns the message of a refusal, None where it was built."""
    try:
        build_source(raw.source, raw.source.options(root=folder / "raw", out=folder / "out"))
    except DataError as error:
        return str(error)
    return None


def test_the_undamaged_files_build(raw: RawSource, tmp_path: Path) -> None:
    assert outcome(raw, tmp_path / "raw", tmp_path / "out") == "built"
    rows = [json.loads(line) for path in (tmp_path / "out").glob("*.jsonl") for line in path.open()]
    assert rows
    assert not [row for row in rows if ".." in Path(row["video"]).parts or row["video"].startswith("/")]


def test_an_absent_file_is_named_or_was_not_needed(raw: RawSource, tmp_path: Path) -> None:
    files = annotation_files(tmp_path / "raw")
    messages = []
    for path in files:
        content = path.read_bytes()
        path.unlink()
        messages.append(refusal(raw, tmp_path) or "")
        path.write_bytes(content)
    if raw.source.name != "qaego4d":  # whose tables are made of whichever files are there
        assert any(str(tmp_path / "raw") in message for message in messages)
    shutil.rmtree(tmp_path / "raw")
    assert "no such folder" in (refusal(raw, tmp_path) or "")


def test_the_folder_of_another_dataset_is_told_by_its_name(raw: RawSource, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "raw")
    (tmp_path / "raw" / "holiday").mkdir(parents=True)
    (tmp_path / "raw" / "labels.docx").touch()
    message = refusal(raw, tmp_path) or ""
    assert "expected" in message
    assert "holiday/, labels.docx" in message


@pytest.mark.parametrize("damage", ["cut", "encoding", "empty", "other_json"])
def test_a_damaged_file_is_refused_by_name_or_makes_no_odd_row(raw: RawSource, tmp_path: Path, damage: str) -> None:
    refused = 0
    for path in annotation_files(tmp_path / "raw"):
        content = path.read_bytes()
        damaged = {
            "cut": content[: 2 * len(content) // 3],
            "encoding": content[:-2] + "é".encode("latin-1") + content[-2:],
            "empty": b"",
            "other_json": b'[{"name": 1}]' if path.suffix == ".json" else b"name\n1\n",
        }[damage]
        path.write_bytes(damaged)
        message = refusal(raw, tmp_path)
        path.write_bytes(content)
        if message is not None:
            refused += 1
            # Two files that no longer fit together are told by the place in either.
            assert str(tmp_path / "raw") in message
        elif path.suffix == ".json" and damage in ("cut", "encoding"):
            pytest.fail(f"{path.name}, damaged, was accepted")
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert refused or damage == "cut"


def test_a_table_with_a_column_or_a_field_less_is_refused(raw: RawSource, tmp_path: Path) -> None:
    tables = [path for path in annotation_files(tmp_path / "raw") if path.suffix == ".csv"]
    if not tables:
        pytest.skip(f"{raw.source.name} has no table")
    told = []
    for path in tables:
        content = path.read_text()
        first, *rest = content.splitlines()
        if "," not in first or ";" in first or not rest:
            continue
        fields = next(csv.reader([rest[0]]))
        written = io.StringIO()
        csv.writer(written).writerow(fields[:-1])
        path.write_text("\n".join([first, written.getvalue().strip(), *rest[1:]]) + "\n")
        told.append(refusal(raw, tmp_path) or "")
        path.write_text(content)
    if not told:
        pytest.skip(f"{raw.source.name} has no table with commas")
    assert any("line 2" in message for message in told)


def strings(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields where a JSON value holds texts."""
    if isinstance(value, str):
        yield at
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from strings(inner, (*at, key))


def replaced(value: Any, at: tuple[Any, ...], text: str) -> Any:
    """Returns a copy of a JSON value with another text at one place."""
    if not at:
        return text
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[at[0]] = replaced(value[at[0]], at[1:], text)
    return copy


def test_no_text_of_a_file_leads_out_of_the_media_root(raw: RawSource, tmp_path: Path) -> None:
    text = "../../../etc/passwd"
    for path in annotation_files(tmp_path / "raw"):
        content = path.read_text()
        if path.suffix == ".json":
            value = json.loads(content)
            variants = [json.dumps(replaced(value, at, text)) for at in list(strings(value))[:25]]
        else:
            lines = content.splitlines(keepends=True) or [""]
            words = [word for word in lines[-1].replace('"', "").replace(";", ",").replace(",", " ").split() if word]
            variants = ["".join([*lines[:-1], lines[-1].replace(word, text, 1)]) for word in words]
        for variant in variants:
            path.write_text(variant)
            outcome(raw, tmp_path / "raw", tmp_path / "out")
            for table in (tmp_path / "out").glob("*.jsonl"):
                for line in table.open():
                    video = json.loads(line)["video"]
                    assert ".." not in Path(video).parts
                    assert not video.startswith("/")
        path.write_text(content)


def test_a_giant_line_is_refused_without_reading_it_whole(
    raw: RawSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_files, "MAX_LINE_CHARACTERS", 1 << 16)
    monkeypatch.setattr(json_stream, "MAX_VALUE_CHARACTERS", 1 << 18)
    monkeypatch.setattr(json_stream, "_WINDOW_CHARACTERS", 1 << 14)
    path = max(annotation_files(tmp_path / "raw"), key=lambda file: file.stat().st_size)
    content = path.read_text()
    giant = "a" * (1 << 25)
    text = content.find(': "', len(content) // 2)  # of JSON; anywhere in a line of a table
    middle = text + 3 if text >= 0 else len(content) // 2
    path.write_text(content[:middle] + giant + content[middle:])
    tracemalloc.start()
    message = refusal(raw, tmp_path)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert message is not None
    assert path.name in message
    assert "characters" in message or "field larger" in message
    assert len(message) < 2000
    assert peak_bytes < len(giant) / 2


def test_a_row_given_twice_is_refused_or_accounted_for(raw: RawSource, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert refusal(raw, tmp_path) is None
    before = {path.name: json.loads(path.read_text()) for path in out.glob("*.summary.json")}
    for path in annotation_files(tmp_path / "raw"):
        content = path.read_text()
        if path.suffix == ".json" and isinstance(json.loads(content), list):
            rows = json.loads(content)
            path.write_text(json.dumps([*rows, rows[0]]))
            message = refusal(raw, tmp_path)
            path.write_text(content)
            if message is not None:
                assert path.name in message or "twice" in message or "two records" in message
    rows = [json.loads(line)["id"] for table in out.glob("*.jsonl") for line in table.open()]
    assert len(rows) == len(set(rows))
    assert before


def test_some_damaged_inputs(raw: RawSource, tmp_path: Path) -> None:
    counts = fuzz(raw, 40, seed=1, folder=tmp_path / "fuzzed")
    assert counts.total() == 40
    assert counts["refused"]
