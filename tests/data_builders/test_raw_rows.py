"""What a value of a raw row may be; above all, that a name from a file can never lead out of the media folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from exo2ego.raw.rows import (
    MAX_TEXT_CHARACTERS,
    ClockSeconds,
    FileStem,
    Flag,
    GeneratedText,
    PythonList,
    RelativePath,
    Seconds,
    Text,
    frame_to_seconds,
)

FORBIDDEN_NAMES = ["", ".", "..", "a/b", "../a", "/etc/passwd", "a\\b", "..\\a", "a\x00b", "a\nb"]
FORBIDDEN_PATHS = [
    *("", ".", "..", "../a", "a/../../b", "/etc/passwd", "a//b", "a/./b", "a\\b", "C:/a", "a\x00"),
    *("http://x/a.mp4", "file:/etc/passwd", "concat:a|b", "data:text/plain,x"),
]


@pytest.mark.parametrize("name", FORBIDDEN_NAMES)
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(FileStem).validate_python(name)


@pytest.mark.parametrize("path", FORBIDDEN_PATHS)
def test_a_path_that_leads_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(RelativePath).validate_python(path)


@pytest.mark.parametrize("name", ["P01_11", "a|P1|1200|1790", "..a", "a.b", "ünï", "001934bb-81bd"])
def test_a_name_of_the_datasets_is_kept(name: str) -> None:
    assert TypeAdapter(FileStem).validate_python(name) == name


@given(st.text(alphabet="./\\:abC\x00 |", max_size=12))
def test_whatever_is_accepted_stays_inside(text: str) -> None:
    root = Path("/media/root")
    for kind in (FileStem, RelativePath):
        try:
            accepted = TypeAdapter(kind).validate_python(text)
        except ValidationError:
            continue
        joined = root / f"{accepted}.mp4"
        assert joined.is_relative_to(root)
        assert ".." not in joined.parts


def test_texts_are_one_line_without_control_characters() -> None:
    assert TypeAdapter(Text).validate_python(" a\tb\u200bc\nd\x07 ") == "a bc d"
    for refused in ("", " \n ", "\u200b", "a" * (MAX_TEXT_CHARACTERS + 1), "\ud800"):
        with pytest.raises(ValidationError):
            TypeAdapter(Text).validate_python(refused)


@pytest.mark.parametrize(
    ("value", "expected"), [(" a ", "a"), (3, "3"), (0.5, "0.5"), (True, "True"), (None, ""), ("", "")]
)
def test_what_a_language_model_wrote_without_quotes_is_a_text(value: object, expected: str) -> None:
    assert TypeAdapter(GeneratedText).validate_python(value) == expected
    with pytest.raises(ValidationError):
        TypeAdapter(GeneratedText).validate_python([value])


@pytest.mark.parametrize(
    ("value", "expected"),
    [("1", True), ("0", False), (1, True), (False, False), ("Yes", True), ("no", False), ("", None), (None, None)],
)
def test_flags(value: object, expected: bool | None) -> None:
    assert TypeAdapter(Flag).validate_python(value) is expected


def test_times_and_lists() -> None:
    assert TypeAdapter(ClockSeconds).validate_python("01:02:03.50") == 3723.5
    assert TypeAdapter(Annotated[list[int], PythonList]).validate_python("[192, 115]") == [192, 115]
    for kind, value in (
        (ClockSeconds, "1:99:00"),
        (ClockSeconds, "12"),
        (Seconds, "nan"),
        (Seconds, 1e400),
        (Annotated[list[int], PythonList], "__import__('os').system('true')"),
        (Annotated[list[int], PythonList], "(" * 5000),
    ):
        with pytest.raises(ValidationError):
            TypeAdapter(kind).validate_python(value)


def test_frames_become_seconds() -> None:
    assert frame_to_seconds(42, 30) == 1.4
    for frame, rate in ((1, 0), (math.inf, 30), (math.nan, 30)):
        with pytest.raises(ValueError, match="frame"):
            frame_to_seconds(frame, rate)
