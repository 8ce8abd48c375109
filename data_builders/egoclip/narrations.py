"""A row of egoclip.csv and what becomes of its text and its times."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from exo2ego.raw.rows import OptionalText, RawRow, Seconds, Text

TagPolicy = Literal["remove", "spell-out", "keep"]
MAX_CLIP_INDEX = 1 << 28
"""Far above the 3.8 million clips; larger numbers are no clip indices (and would only fill the memory)."""

_PERSON = re.compile(r"#\s*([CO])\b\s*", re.IGNORECASE)
_WEARER = re.compile(r"#\s*C\b(\s+C\b)?", re.IGNORECASE)
_OTHER = re.compile(r"#\s*O\b", re.IGNORECASE)
_UNSURE = re.compile(r"#\s*unsure\b", re.IGNORECASE)
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
"""A whole field as tools write one that holds quotes; a lone quote within a field is text."""


def _unquoted(text: str) -> str:
    return text[1:-1].replace('""', '"').strip() if _QUOTED.fullmatch(text) else text


class EgoClipRow(RawRow):
    """The columns that are used; narration_ind and the verb and noun classes are not."""

    clip_idx: Annotated[int, Field(ge=0, lt=MAX_CLIP_INDEX)]
    video_uid: Text
    video_dur: Annotated[Seconds, Field(gt=0)]
    narration_source: Text
    narration_time: Seconds
    clip_start: Seconds
    """May be negative."""
    clip_end: Seconds
    """May lie beyond the end of the video."""
    clip_text: Annotated[OptionalText, AfterValidator(_unquoted)]


def subject_of(text: str) -> str:
    """Returns "C" for the camera wearer (`#C`), "O" for another person (`#O`), empty where no tag says so."""
    found = _PERSON.search(text)
    return found[1].upper() if found else ""


def is_unsure(text: str) -> bool:
    """Says whether the annotator could not name something (`#unsure`)."""
    return _UNSURE.search(text) is not None


def narration_text(text: str, tags: TagPolicy) -> str:
    """Returns a narration under a tag policy.

    `remove`: "#C C drops the #unsure" becomes "C drops the something", the form of Ego-Exo4D's descriptions.
    `spell-out`: "Camera wearer drops the something", as Ego4D's own code writes it, but without the second "C".
    """
    if tags == "keep" or "#" not in text:
        return text
    text = _UNSURE.sub("something", text)
    if tags == "remove":
        return " ".join(_PERSON.sub("", text).split())
    return " ".join(_OTHER.sub("Other person", _WEARER.sub("Camera wearer", text)).split())
