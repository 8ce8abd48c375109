"""What a row of a raw annotation file may hold: texts, numbers, and names that may become part of a path."""

from __future__ import annotations

import ast
import math
import re
from pathlib import PurePosixPath
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, FiniteFloat, ValidationError

MAX_TEXT_CHARACTERS = 20_000
MAX_NAME_BYTES = 200
"""File systems take 255 bytes for one name; a folder's layout adds to the name that a row gives."""
MAX_PATH_CHARACTERS = 1000
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u2028\u2029]")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class RawRow(BaseModel):
    """Base of the rows as their authors publish them: unknown columns are ignored, white space around is stripped."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True, str_strip_whitespace=True)


RowType = TypeVar("RowType", bound=BaseModel)


def _text(value: str) -> str:
    if _LONE_SURROGATE.search(value):
        raise ValueError("holds half a character (a lone surrogate), which no file can store")
    if len(value) > MAX_TEXT_CHARACTERS:
        raise ValueError(f"a text of {len(value):,} characters, expected at most {MAX_TEXT_CHARACTERS:,}")
    return " ".join(_CONTROL.sub(" ", value).replace("\u200b", "").split())


def _generated(value: Any) -> Any:
    if value is None:
        return ""
    return str(value) if isinstance(value, int | float) else value


def _not_empty(value: str) -> str:
    if not value:
        raise ValueError("is empty")
    return value


def _file_stem(value: str) -> str:
    if value in {"", ".", ".."} or re.search(r"[/\\\x00-\x1f\ud800-\udfff]", value):
        raise ValueError(
            f"{value[:80]!r} cannot name a file: it must not be empty, hold `/` or `\\`, or lead elsewhere"
        )
    if len(value.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"{value[:80]!r}… cannot name a file: it has more than {MAX_NAME_BYTES} bytes")
    return value


def _relative_path(value: str) -> str:
    parts = value.split("/")
    if re.search(r"[\\\x00-\x1f\ud800-\udfff]|^[A-Za-z][A-Za-z0-9+.-]*:", value) or {"", ".", ".."} & set(parts):
        raise ValueError(
            f"{value[:80]!r} is not a plain path inside the media folder (no `..`, no leading `/`, no scheme)"
        )
    if len(value) > MAX_PATH_CHARACTERS or any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        raise ValueError(
            f"{value[:80]!r}… is too long for a path: expected names of at most {MAX_NAME_BYTES} bytes and "
            f"{MAX_PATH_CHARACTERS} characters together"
        )
    return str(PurePosixPath(value))


def _python_list(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        parsed = ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"{value[:80]!r} is not a list") from error
    return list(parsed) if isinstance(parsed, list | tuple) else value


def _flag(value: Any) -> Any:
    return {"yes": True, "no": False, "": None}.get(value.strip().lower(), value) if isinstance(value, str) else value


def _clock_seconds(value: Any) -> Any:
    """Turns `HH:mm:ss.SS` into seconds."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"\s*(\d{1,3}):([0-5]?\d):([0-5]?\d(?:\.\d+)?)\s*", value)
    if not found:
        raise ValueError(f"{value!r} is not a time as HH:mm:ss.SS")
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])


Text = Annotated[str, AfterValidator(_text), AfterValidator(_not_empty)]
"""A text in one line, not empty; control characters and zero-width spaces become or lose their space."""
OptionalText = Annotated[str, AfterValidator(_text)]
GeneratedText = Annotated[OptionalText, BeforeValidator(_generated)]
"""A text by a language model, read with Python's `literal_eval`: numbers, `True`, `False` where it wrote them bare;
`None` is empty."""
FileStem = Annotated[str, AfterValidator(_file_stem)]
"""An id that becomes a file name: it can never leave its folder."""
RelativePath = Annotated[str, AfterValidator(_relative_path)]
"""A path inside the media folder, with `/`."""
Seconds = FiniteFloat
ClockSeconds = Annotated[FiniteFloat, BeforeValidator(_clock_seconds)]
"""Seconds written as `HH:mm:ss.SS`."""
PythonList = BeforeValidator(_python_list)
"""Put before a list type: the list is written as Python prints it, as in `"[93]"`; never evaluated as code."""
Flag = Annotated[bool | None, BeforeValidator(_flag)]
"""A boolean written as true, "0"/"1", "Yes"/"No", or empty."""


def describe_faults(error: ValidationError) -> str:
    """Returns the faults of a row in one line."""
    faults = []
    for fault in error.errors(include_url=False):
        key = ".".join(map(str, fault["loc"])) or "row"
        if len(key) > 60 or not key.isprintable():  # a name of the file's own making
            key = _short(key)
        message = fault["msg"].removeprefix("Value error, ")
        given = "" if fault["type"] in {"missing", "value_error"} else f", got {_short(fault['input'])}"
        faults.append(f"{key}: {message}{given}")
    return "; ".join(faults[:5])


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def frame_to_seconds(frame: float, frame_rate: float) -> float:
    """Returns the time of a frame number in seconds, to the microsecond; raises `ValueError` for no frame rate."""
    if not (frame_rate > 0 and math.isfinite(frame)):
        raise ValueError(f"expected a frame number and a frame rate above 0, got {frame} at {frame_rate}")
    return round(frame / frame_rate, 6)
