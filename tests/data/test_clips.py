"""Clip tables read back as records."""

from __future__ import annotations

import pickle
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from data_builders.ego_exoclip.table import write_tables
from exo2ego.data.clips import CLIP_SCHEMA, read_clips
from exo2ego.errors import DataError
from exo2ego.records import Clip

CLIPS = [
    Clip(
        clip_id=f"take{number // 3}/0/{number % 3}",
        take_uid=f"uid-{number // 3}",
        take_name=f"take{number // 3}",
        start_s=float(number),
        end_s=number + 0.5,
        timestamp_s=number + 0.25,
        text=f"C does {number} things.",
        annotator="100",
        ego_video=f"takes/take{number // 3}/aria01.mp4",
        exo_videos=[f"takes/take{number // 3}/cam{camera}.mp4" for camera in range(1 + number // 3)],
        university="cmu",
        scenario="Cooking",
        task="Tea",
        subject="C",
        ego_visible=(None, True, False)[number % 3],
        unsure=False,
        best_exo="cam1",
    )
    for number in range(9)
]


def as_table(clips: list[Clip]) -> pyarrow.Table:
    return pyarrow.Table.from_pylist([clip.to_row() for clip in clips], schema=CLIP_SCHEMA)


@pytest.fixture(params=["clips.parquet", "clips.arrow"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    table = as_table(CLIPS).unify_dictionaries()
    write_tables([table.slice(0, 4), table.slice(4)], tmp_path / "clips.parquet", tmp_path / "clips.arrow")
    return tmp_path / str(request.param)


def test_the_schema_has_the_fields_of_the_record() -> None:
    assert CLIP_SCHEMA.names == list(Clip.model_fields)


def test_reads_what_was_written(path: Path) -> None:
    clips = read_clips(path)
    assert list(clips) == CLIPS
    assert len(clips) == 9
    assert clips[-1] == CLIPS[-1]
    assert clips[2:7:2] == CLIPS[2:7:2]
    with pytest.raises(IndexError, match=r"clip 9 of 9"):
        clips[9]


def test_columns_without_decoding_rows(path: Path) -> None:
    clips = read_clips(path)
    assert clips.num_exo_videos().tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert clips.column("take_name").to_pylist() == [clip.take_name for clip in CLIPS]
    with pytest.raises(KeyError):
        clips.column("colour")


def test_pickles_as_its_path(path: Path) -> None:
    clips = read_clips(path)
    pickled = pickle.dumps(clips)
    assert len(pickled) < 500
    assert list(pickle.loads(pickled)) == CLIPS


def test_plain_parquet_of_other_tools_will_do(tmp_path: Path) -> None:
    rows = [{**clip.to_row(), "colour": "red"} for clip in CLIPS]
    for row in rows:
        del row["university"]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "mine.parquet")
    assert list(read_clips(tmp_path / "mine.parquet")) == [clip.model_copy(update={"university": ""}) for clip in CLIPS]


def test_repeated_text_is_held_once(tmp_path: Path) -> None:
    many = as_table([CLIPS[0].model_copy(update={"take_name": "x" * 1000})] * 5000)
    write_tables([many], tmp_path / "clips.parquet", tmp_path / "clips.arrow")
    for name in ("clips.parquet", "clips.arrow"):
        assert read_clips(tmp_path / name).column("take_name").nbytes < 50_000


@pytest.mark.parametrize("name", ["clips.parquet", "clips.arrow"])
def test_files_that_are_no_clip_table(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="clip table not found"):
        read_clips(tmp_path / name)
    other = pyarrow.table({"text": ["a"]})
    pyarrow.parquet.write_table(other, tmp_path / "clips.parquet")
    with pyarrow.ipc.new_file(str(tmp_path / "clips.arrow"), other.schema) as writer:
        writer.write_table(other)
    with pytest.raises(DataError, match="not a clip table: it has no column clip_id, take_uid"):
        read_clips(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be read as a clip table"):
        read_clips(tmp_path / name)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read as a clip table"):
        read_clips(tmp_path / name)
