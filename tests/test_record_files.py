"""Files of records: the type is found by the content, and a faulty row is reported with its place, not fatal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exo2ego.errors import DataError
from exo2ego.records import Record
from scripts.record_files import MAX_LINE_BYTES, open_records
from tests.record_examples import clip, conversation, prediction, question, write_records

FILES = [
    ("clips.parquet", clip(), "clips"),
    ("clips.arrow", clip(), "clips"),
    ("clips.jsonl", clip(), "clips"),
    ("egtea.jsonl", conversation(), "conversations"),
    ("ek100_mir.jsonl", question(), "questions"),
    ("ek100_mir.json", question(), "questions"),
    ("open.jsonl", question(options=[], answer_index=None, meta={}), "questions"),
    ("predictions.jsonl", prediction(), "predictions"),
]


@pytest.mark.parametrize(("name", "record", "kind"), FILES, ids=[name for name, _, _ in FILES])
def test_every_type_is_told_by_its_content(tmp_path: Path, name: str, record: Record, kind: str) -> None:
    records = open_records(write_records(tmp_path / name, [record, record]))
    assert (records.kind, len(records)) == (kind, 2)
    assert [row.record for row in records] == [record, record]
    assert [row.number for row in records] == [1, 2]


def test_faulty_rows_keep_their_line_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "mixed.jsonl"
    good = json.dumps(conversation().to_row()).encode()
    extra = json.dumps(conversation().to_row() | {"anser": 1}).encode()
    backwards = json.dumps(conversation().to_row() | {"start": 3, "end": 2}).encode()
    path.write_bytes(
        b"\n".join([b"\xef\xbb\xbf" + good, b"", b'{"id": "x"', b"\xff\xfe", b"[1]", extra, backwards, good[:-1]])
    )
    rows = list(open_records(path))
    assert [(row.number, row.record is not None) for row in rows] == [
        (1, True),
        *((number, False) for number in range(3, 9)),
    ]
    faults = {row.number: "; ".join(row.faults) for row in rows}
    assert "not valid JSON" in faults[3]
    assert "not UTF-8" in faults[4]
    assert "expected a JSON object, got list" in faults[5]
    assert "anser" in faults[6]
    assert "0 <= start <= end" in faults[7]


def test_a_huge_line_is_skipped_without_being_parsed(tmp_path: Path) -> None:
    path = write_records(tmp_path / "egtea.jsonl", [conversation()])
    with path.open("ab") as stream:
        stream.write(b'"' + b" " * (MAX_LINE_BYTES + 1) + b'"\n')
        stream.write(json.dumps(conversation(id="egtea/2").to_row()).encode())
    rows = list(open_records(path))
    assert [row.number for row in rows] == [1, 2, 3]
    assert "no record is that long" in rows[1].faults[0]
    assert rows[2].record == conversation(id="egtea/2")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello\n", "holds no JSON object"),
        (b'{"video": "a.mp4", "conversations": [{"from": "human", "value": "x"}]}\n', "none of the known records"),
        (b'[{"id": 1}', "not valid JSON"),
        (b"PAR1 and then nothing", "cannot be read as a clip table"),
        (b"[1, 2]", "holds no JSON object"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "holds no JSON object"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file.parquet"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_records(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"\n \n"])
def test_an_empty_file_is_opened(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    assert list(open_records(tmp_path / "rows.jsonl")) == []


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        open_records(tmp_path / "nothing.jsonl")
