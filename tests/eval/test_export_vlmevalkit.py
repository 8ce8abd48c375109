"""The export for VLMEvalKit: what its loader gets back (VLMEvalKit itself is not run), pictures, faults."""

from __future__ import annotations

import ast
import io
from pathlib import Path
from typing import Any

import numpy
import pandas  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eval import export_vlmevalkit
from eval.export_vlmevalkit import table_text
from exo2ego.data.spans import Span
from exo2ego.data.video import read_frames
from exo2ego.errors import EvaluationError
from exo2ego.records import Question
from exo2ego.storage import read_jsonl, write_jsonl
from tests.eval.evaluation_setup import question_row
from tests.eval.lmms_eval_setup import write_video


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "ego.mp4", seed=0)
    return folder


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Reads a table as VLMEvalKit does (`load` of a .tsv)."""
    found: list[dict[str, Any]] = pandas.read_csv(path, sep="\t").to_dict("records")
    return found


def test_a_table_has_what_a_custom_data_set_needs(root: Path, tmp_path: Path) -> None:
    rows = [question_row(n, task="egoplan", video="ego.mp4", observation=1.5) for n in range(3)]
    rows[1]["options"], rows[1]["answer_index"] = rows[1]["options"][:4], 3
    rows.append(question_row(3, task="vlnqa", video="ego.mp4", start=None, end=None))
    rows.append(question_row(4, task="egoschema", video="ego.mp4", answer_index=None, answer_text=None))
    rows.append(question_row(5, task="qaego4d_open", video="ego.mp4", options=[], answer_index=None))
    write_jsonl(tmp_path / "questions.jsonl", rows)
    arguments = [f"data.root={root}", f"data.questions={tmp_path / 'questions.jsonl'}", f"out={tmp_path / 'out'}"]
    assert export_vlmevalkit.main([*arguments, "num_frames=3"]) == 0
    assert {path.name for path in (tmp_path / "out").glob("*.tsv")} == {"EgoBench_egoplan.tsv", "EgoBench_vlnqa.tsv"}
    found = rows_of(tmp_path / "out" / "EgoBench_egoplan.tsv")
    assert [row["index"] for row in found] == [0, 1, 2]  # whole and unique numbers
    for row, asked in zip(found, rows, strict=False):
        assert (row["id"], row["question"], row["category"]) == (asked["id"], asked["question"], "egoplan")
        assert [row[letter] for letter in "ABCDE"[: len(asked["options"])]] == asked["options"]
        assert row["answer"] == "ABCDE"[asked["answer_index"]]
        pictures = [numpy.asarray(Image.open(path)) for path in ast.literal_eval(row["image_path"])]
        frames = read_frames(root / "ego.mp4", 0.5, 1.5, 3, observation_s=1.5)
        assert numpy.abs(numpy.stack(pictures).astype(int) - frames).mean() < 6  # JPEG of noise
    assert pandas.isna(found[1]["E"])  # VLMEvalKit leaves an empty option out


MISSING = ["None", "NA", "null", "nan", "", "N/A", "NULL", "#N/A"]
"""Texts that pandas reads as missing values."""


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1)
        | st.sampled_from([*MISSING, "a\tb", 'say "no"', "1", "True", " None"]),
        min_size=2,
        max_size=10,
    )
)
@settings(max_examples=100, deadline=None)
def test_options_come_back_as_they_were_or_with_a_dot(options: list[str]) -> None:
    question = Question.model_validate(question_row(0, options=options, answer_index=0))
    other = Question.model_validate(question_row(1, options=["red cup", "blue bottle"] * 5, answer_index=0))
    text = table_text([question, other], {Span.of(one): [Path("/a/b.jpg")] for one in (question, other)})
    row = pandas.read_csv(io.StringIO(text), sep="\t").to_dict("records")[0]
    for letter, option in zip("ABCDEFGHIJ", options, strict=False):
        assert row[letter] == (f"{option}." if option in MISSING else option)


def test_numbers_that_pandas_would_change_are_refused() -> None:
    question = Question.model_validate(question_row(0, options=["1", "2.50"], answer_index=0))
    with pytest.raises(EvaluationError, match="cannot be exported"):
        table_text([question], {Span.of(question): [Path("/a/b.jpg")]})


def test_a_missing_video_is_listed_and_too_many_stop(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [question_row(0, task="vlnqa", video="ego.mp4"), question_row(1, task="vlnqa", video="gone.mp4")]
    write_jsonl(tmp_path / "questions.jsonl", rows)
    arguments = [f"data.root={root}", f"data.questions={tmp_path / 'questions.jsonl'}", f"out={tmp_path / 'out'}"]
    assert export_vlmevalkit.main([*arguments, "num_frames=2"]) == 3
    assert "the videos of 1 of 2 questions cannot be read" in capsys.readouterr().err
    assert [row["video"] for row in read_jsonl(tmp_path / "out" / "failures.jsonl")] == ["gone.mp4"]
    assert export_vlmevalkit.main([*arguments, "num_frames=2", "max_failure_rate=0.5"]) == 0
    assert "1 whose video cannot be read" in capsys.readouterr().out
    assert len(rows_of(tmp_path / "out" / "EgoBench_vlnqa.tsv")) == 1
