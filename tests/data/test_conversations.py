"""The conversation table: a sequence that keeps its rows on disk, strict about each of them."""

from __future__ import annotations

import json
import os
import pickle
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo2ego.data.conversations import read_conversations
from exo2ego.errors import DataError
from exo2ego.records import Conversation


def conversation(number: int, text: str = "yes") -> Conversation:
    return Conversation(conversation_id=f"c{number}", source="tiny", video=f"{number}.mp4", answer=text)


def lines(rows: list[Conversation]) -> list[str]:
    return [json.dumps(row.to_row(), ensure_ascii=False) for row in rows]


def write(path: Path, rows: list[Conversation], ending: str = "\n") -> Path:
    path.write_bytes("".join(line + ending for line in lines(rows)).encode())
    return path


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20), max_size=8),
    st.sampled_from(["\n", "\r\n", "\n\n", "\n  \n"]),
    st.booleans(),
)
def test_every_row_is_found_again(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], ending: str, cut: bool
) -> None:
    rows = [conversation(number, text) for number, text in enumerate(texts)]
    path = write(tmp_path_factory.mktemp("table") / "rows.jsonl", rows, ending)
    if cut:  # the last line may lack its end
        path.write_bytes(path.read_bytes().rstrip())
    table = read_conversations(path)
    assert len(table) == len(rows)
    assert list(table) == rows
    assert table[1:] == rows[1:]
    assert [table[-1 - number] for number in range(len(rows))] == rows[::-1]
    for index in (len(rows), -len(rows) - 1):
        with pytest.raises(IndexError, match="conversation"):
            table[index]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"id": "1", "source": "x", "video": "v.mp4"}\n', "conversation 2 is not an EgoIT record: answer: Field req"),
        (b'\n{"id": "1", "source"', r"line 3 of the conversation table is not valid JSON .*cut off"),
        (b"[" * 100_000 + b"\n", "line 2 of the conversation table is nested too deeply"),
        (b"[1]\n", "line 2: expected a JSON object, got list"),
        (b'{"id": "\xff"}\n', "the conversation table is not UTF-8 text"),
    ],
)
def test_a_faulty_row_is_named_when_the_table_is_opened(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path / "rows.jsonl", [conversation(0)])
    path.write_bytes(path.read_bytes() + content)
    with pytest.raises(DataError, match=message) as fault:
        read_conversations(path)
    assert str(path) in str(fault.value)


def test_no_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: conversation table cannot be read: No such file"):
        read_conversations(tmp_path / "none.jsonl")


def test_pickles_without_its_rows(tmp_path: Path) -> None:
    rows = [conversation(number, "long " * 200) for number in range(100)]
    table = read_conversations(write(tmp_path / "rows.jsonl", rows))
    assert table[0] == rows[0]  # with the file open
    pickled = pickle.dumps(table)
    assert len(pickled) < 2000
    assert list(pickle.loads(pickled)) == rows


def test_memory_does_not_grow_with_the_texts(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [conversation(number, "x" * 10_000) for number in range(300)])
    read_conversations(path)
    tracemalloc.start()
    try:
        table = read_conversations(path)
        assert sum(len(row.answer) for row in table) == 3_000_000
        assert tracemalloc.get_traced_memory()[1] < 400_000
    finally:
        tracemalloc.stop()


def test_another_file_under_the_same_name_is_refused(tmp_path: Path) -> None:
    """A worker that starts later must not read other rows in silence."""
    path = write(tmp_path / "rows.jsonl", [conversation(0), conversation(1)])
    pickled = pickle.dumps(read_conversations(path))
    write(path, [conversation(1), conversation(0)])
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match="the conversation table has changed since this run opened it"):
        pickle.loads(pickled)[0]


def test_a_table_that_is_open_stays_what_it_was(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [conversation(0), conversation(1)])
    table = read_conversations(path)
    assert table[0].conversation_id == "c0"
    write(tmp_path / "new.jsonl", [conversation(7)]).replace(path)
    assert table[1].conversation_id == "c1"
