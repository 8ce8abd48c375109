"""Reading raw annotation files: what is found, what every fault says, and that memory is bounded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import AliasChoices, Field, RootModel

from exo2ego.errors import DataError
from exo2ego.raw import files as raw_files
from exo2ego.raw import json_stream
from exo2ego.raw.files import RawFiles
from exo2ego.raw.rows import FileStem, Flag, PythonList, RawRow, Text


class Anything(RootModel[Any]):
    """Whatever JSON holds."""


class Row(RawRow):
    """A row as in the sources: an id under either of two names, a text, a list as Python prints it."""

    video: FileStem = Field(validation_alias=AliasChoices("video_uid", "video_id"))
    text: Text
    tags: Annotated[list[int], PythonList] = Field(default_factory=list)
    seen: Flag = None


GOOD = {"video_uid": "v1", "text": " a  text ", "tags": "[1, 2]", "seen": "0", "unknown": 1}


@pytest.fixture
def files(tmp_path: Path) -> RawFiles:
    return RawFiles(tmp_path, "Example")


def written(files: RawFiles, name: str, content: str | bytes) -> Path:
    path = files.root / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_rows_come_with_their_place_whatever_the_format(files: RawFiles) -> None:
    expected = Row(video="v1", text="a text", tags=[1, 2], seen=False)
    rows = written(files, "rows.json", json.dumps([GOOD]))
    assert list(files.json_rows(rows, Row, "rows")) == [(f"{rows}: row 1", expected)]
    members = written(files, "members.json", json.dumps({"7": GOOD}))
    assert list(files.json_members(members, Row, "members")) == [(f"{members}: entry '7'", "7", expected)]
    nested = written(files, "nested.json", json.dumps({"x": 1, "all": {"7": GOOD}}))
    assert list(files.json_members(nested, Row, "members", key="all")) == [(f"{nested}: entry '7'", "7", expected)]
    lines = written(files, "rows.jsonl", json.dumps(GOOD) + "\n")
    assert list(files.jsonl_rows(lines, Row, "rows")) == [(f"{lines}: line 1", expected)]
    table = written(files, "table.csv", '\ufeffvideo_id,text,tags,seen\n\nv1," a  text ","[1, 2]",0\n')
    assert list(files.csv_rows(table, Row, "table")) == [(f"{table}: line 3", expected)]
    plain = written(files, "plain.csv", "v1;a text\n")
    assert [row.text for _, row in files.csv_rows(plain, Row, "t", delimiter=";", columns=["video_id", "text"])] == [
        "a text"
    ]
    assert sorted(files.hashes()) == [
        "members.json",
        "nested.json",
        "plain.csv",
        "rows.json",
        "rows.jsonl",
        "table.csv",
    ]


def test_a_file_is_found_under_any_of_its_names(files: RawFiles) -> None:
    written(files, "new.json", "{}")
    assert files.find("old.json", "new.json", what="labels") == files.root / "new.json"
    assert files.has("new.json")
    assert not files.has("old.json")
    with pytest.raises(DataError, match=r"captions of Example not found; expected a.csv or b.csv; .*holds new.json"):
        files.find("a.csv", "b.csv", what="captions")
    with pytest.raises(DataError, match="no such folder"):
        RawFiles(files.root / "absent", "Example").find("a.csv", what="captions")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"video_uid": "v1"', "line 1"),
        ('[{"video_uid": "v1", "text": "a"}, {"video_uid": "v2"}]', "row 2: text: Field required"),
        ('{"video_uid": "v1"}', r"expected '\['"),
        ("[" * 100_000, "nested too deeply"),
        ('[{"video_uid": "v1", "text": ' + "9" * 5000 + "}]", "line 1"),
        ('[{"video_uid": "../v1", "text": "a"}]', "row 1: video_uid: '../v1' cannot name a file"),
        ('[{"video_uid": "v1", "text": "\\ud800"}]', "row 1: text"),
        ('[{"video_uid": "v1", "text": "  "}]', "row 1: text: is empty"),
        ("[3]", "row 1: "),
        (b'[{"video_uid": "v1", "text": "\xff"}]', "cannot be read"),
        ("", "line 1"),
    ],
)
def test_a_faulty_json_file_is_told_by_name_and_place(files: RawFiles, content: str | bytes, message: str) -> None:
    path = written(files, "rows.json", content)
    with pytest.raises(DataError, match=message) as caught:
        list(files.json_rows(path, Row, "rows"))
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text\na\n", "lacks the column video_id or video_uid"),
        ("video_id,text,text\nv1,a,b\n", "has the column text twice"),
        ("video_id,text\nv1\n", "line 2: table: expected 2 fields, got 1"),
        ("video_id,text\nv1,a,b\n", "line 2: table: expected 2 fields, got 3"),
        ('video_id,text\nv1,"a\n', "line 2: table is not a table"),
        ("video_id,text\nv1,\x00\n", "line 2: text: is empty"),
        (b"video_id,text\nv1,\xe9\n", "not UTF-8 text"),
        ("", "lacks the column"),
    ],
)
def test_a_faulty_table_is_told_by_name_and_place(files: RawFiles, content: str | bytes, message: str) -> None:
    path = written(files, "table.csv", content)
    with pytest.raises(DataError, match=message) as caught:
        list(files.csv_rows(path, Row, "table"))
    assert str(path) in str(caught.value)


def test_quotes_may_be_plain_characters(files: RawFiles) -> None:
    path = written(files, "table.tsv", 'video_id\ttext\nv1\tputs the 12" plate\n')
    rows = files.csv_rows(path, Row, "table", delimiter="\t", quoting=False)
    assert [row.text for _, row in rows] == ['puts the 12" plate']


def test_a_giant_line_or_value_is_refused_before_it_fills_the_memory(
    files: RawFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_files, "MAX_LINE_CHARACTERS", 1000)
    monkeypatch.setattr(json_stream, "MAX_VALUE_CHARACTERS", 5000)
    monkeypatch.setattr(json_stream, "_WINDOW_CHARACTERS", 500)
    long_line = written(files, "rows.jsonl", json.dumps(GOOD | {"text": "a" * 2000}) + "\n")
    with pytest.raises(DataError, match="line 1: rows: a line of more than 1,000 characters"):
        list(files.jsonl_rows(long_line, Row, "rows"))
    long_value = written(files, "rows.json", json.dumps([GOOD | {"text": "a" * 20_000}]))
    with pytest.raises(DataError, match="one value of more than 5,000 characters"):
        list(files.json_rows(long_value, Row, "rows"))


@pytest.mark.parametrize(
    "content",
    ['{"a": 1, "a": 2}', '{"x": {"a": {}, "a": {}}}', '{"a": {}, "a": {}}', '{"x": {"b": {"a": [{"a": 1, "a": 1}]}}}'],
)
def test_a_name_given_twice_is_refused(files: RawFiles, content: str) -> None:
    path = written(files, "table.json", content)
    wrapped = written(files, "rows.json", f"[{content}]")
    lines = written(files, "rows.jsonl", content)
    for rows in (
        lambda: files.json_table(path, "answers"),
        lambda: files.json_members(path, Anything, "answers"),
        lambda: files.json_rows(wrapped, Anything, "answers"),
        lambda: files.jsonl_rows(lines, Anything, "answers"),
    ):
        with pytest.raises(DataError, match=r"line 1.*'a' is given twice"):
            list(rows())


@pytest.mark.parametrize(
    ("fault", "message"),
    [('{"a" 1}', "Expecting ':' delimiter"), ('{"a": 01}', "Expecting ',' delimiter"), ('"\\x"', "Invalid .*escape")],
)
def test_a_fault_in_front_of_much_text_is_told_where_it_is(
    files: RawFiles, monkeypatch: pytest.MonkeyPatch, fault: str, message: str
) -> None:
    monkeypatch.setattr(json_stream, "_WINDOW_CHARACTERS", 100)
    monkeypatch.setattr(json_stream, "MAX_VALUE_CHARACTERS", 1000)
    path = written(files, "rows.json", f'[[\n1,\n{fault},\n"{"a" * 10_000}"]]')
    with pytest.raises(DataError, match=f"line 3: {message}"):
        list(files.json_rows(path, Row, "rows"))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=200), st.text(alphabet="[]{}\",:\\n019v- .eE\n\t'", max_size=80).map(str.encode)))
def test_no_bytes_make_anything_but_rows_or_a_data_error(files: RawFiles, content: bytes) -> None:
    path = written(files, "fuzzed", content)
    for read in (files.json_rows, files.json_members, files.jsonl_rows, files.csv_rows):
        told = None
        try:
            rows = [row[-1] for row in read(path, Row, "fuzzed")]
        except DataError as error:
            rows, told = [], str(error)
        assert all(isinstance(row, Row) for row in rows)
        assert told is None or (str(path) in told and len(told) < 1000)
