"""Read VideoLLaMA2's training data (`{"video","conversations"}`), with which the exo branch is initialised.

Source: VideoLLaMA2 (github.com/DAMO-NLP-SG/VideoLLaMA2); its quick start takes Video-LLaVA's valley_llavaimage.json
(pre-training captions) and videochatgpt_llavaimage_tune.json (tuning). Licences: those of the data sets inside. Any
other file of the form can be named. Traps: rows of pictures ("image", and "video" with a picture's name) and of text
alone among those of videos; ids that are numbers or repeat; answers that refer to an earlier turn.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from data_builders.media import MediaFolder
from data_builders.source import Account, DatasetOptions, Source, Tables, run_source
from exo2ego.errors import DataError
from exo2ego.raw.files import RawFiles
from exo2ego.raw.rows import MAX_TEXT_CHARACTERS, RawRow, RelativePath, Seconds
from exo2ego.records import Conversation

WHAT = "VideoLLaMA2 conversation file"
NAME = "videollama2_conversations"
VIDEO_TOKEN = "<video>"
_TOKENS = re.compile(r"<(?:video|image)>")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"}


class VideoLLaMA2Options(DatasetOptions):
    """Options of the reader of VideoLLaMA2's data."""

    annotations: list[str] = Field(
        default=["valley_llavaimage.json", "videochatgpt_llavaimage_tune.json"], min_length=1
    )
    """Files below the root; the default ones are read if they are there, named ones must be there."""
    malformed: Literal["stop", "drop"] = "stop"
    """Rows whose turns are not question, answer, question, answer, … or too long, or whose questions do not show the
    video: stop the build, or leave them out and count them."""


def _lines(value: str) -> str:
    return _CONTROL.sub(" ", value.replace("\r\n", "\n")).strip()


class Turn(RawRow):
    """One turn; its line breaks stay."""

    speaker: str = Field(validation_alias="from")
    value: Annotated[str, AfterValidator(_lines)]


class VideoLLaMA2Row(RawRow):
    """A row of the list; `id` is not used, because it need not be unique."""

    video: RelativePath | None = None
    image: Any = None
    conversations: list[Turn]
    start: Seconds | None = None
    """Not in VideoLLaMA2's files: `data_builders.egoit.export --spans keys` writes it."""
    end: Seconds | None = None


def read(options: VideoLLaMA2Options, account: Account) -> Tables[Conversation]:
    """Returns the answers about videos; rows without a video are counted and left out."""
    files = RawFiles(options.root, "VideoLLaMA2's training data")
    named = "annotations" in options.model_fields_set
    names = options.annotations if named else [name for name in options.annotations if files.has(name)]
    paths = [files.find(name, what="a conversation file") for name in names]
    if not paths:
        files.find(*options.annotations, what="a conversation file")  # raises, naming what is there instead
    if len({path.stem for path in paths}) != len(paths):
        raise DataError(f"{options.root}: annotations: two files of one name would give equal ids: {', '.join(names)}")

    def records() -> Iterator[Conversation]:
        media = MediaFolder(options, ("{path}",), account)
        for path in paths:
            yield from _conversations(files, path, options, media, account)
        account.inputs = files.hashes()

    return {NAME: records()}


def _conversations(
    files: RawFiles, path: Path, options: VideoLLaMA2Options, media: MediaFolder, account: Account
) -> Iterator[Conversation]:
    for number, (where, row) in enumerate(files.json_rows(path, VideoLLaMA2Row, WHAT), 1):
        if row.image is not None or (row.video and PurePosixPath(row.video).suffix.lower() in _PICTURES):
            account.drop("picture", where)
            continue
        if row.video is None:
            account.drop("text_without_video", where)
            continue
        fault = _fault(row)
        if fault and options.malformed == "stop":
            raise DataError(f"{where}: {fault}; correct it, or leave such rows out with malformed=drop")
        if fault:
            account.drop("malformed", f"{where}: {fault}")
            continue
        video = media.find(where, path=row.video)
        if video is None:
            continue
        yield from _answers(f"{NAME}/{path.stem}/{number}", where, row, video, account)


def _fault(row: VideoLLaMA2Row) -> str:
    """Returns what is wrong with a row's turns or span, empty where nothing is."""
    speakers = [turn.speaker for turn in row.conversations]
    if not speakers or speakers != ["human", "gpt"] * (len(speakers) // 2):
        return f"expected turns human, gpt, human, gpt, …, got {', '.join(speakers)[:80] or 'none'}"
    longest = max(len(turn.value) for turn in row.conversations)
    if longest > MAX_TEXT_CHARACTERS:
        return f"a turn of {longest:,} characters, expected at most {MAX_TEXT_CHARACTERS:,}"
    questions, answers = row.conversations[::2], row.conversations[1::2]
    if not any(VIDEO_TOKEN in turn.value for turn in questions):
        return f"no question holds {VIDEO_TOKEN}"
    if any(_TOKENS.search(turn.value) for turn in answers) or any("<image>" in turn.value for turn in questions):
        return "an answer holds <video>, or a turn about a video holds <image>"
    if (row.start or 0) < 0 or (row.end is not None and row.end < (row.start or 0)):
        return f"expected 0 <= start <= end, got {row.start} to {row.end}"
    return ""


def _answers(name: str, where: str, row: VideoLLaMA2Row, video: str, account: Account) -> Iterator[Conversation]:
    """Yields one record per answer: an EgoIT record holds one question, so the turns before it are lost."""
    for number, (asked, answered) in enumerate(zip(row.conversations[::2], row.conversations[1::2], strict=True), 1):
        if not answered.value:
            account.drop("no_answer", f"{where}, turn {2 * number}")
            continue
        if number > 1:
            account.note("earlier_turns_are_lost", f"{where}, turn {2 * number}")
        yield Conversation(
            id=f"{name}/{number}",
            source="videollama2",
            video=video,
            start=row.start,
            end=row.end,
            question=asked.value.replace(VIDEO_TOKEN, "").strip(),
            answer=answered.value,
        )


SOURCE = Source(name=NAME, kind="initialisation", options=VideoLLaMA2Options, read=read, tables=(NAME,))


def main(argv: Sequence[str] | None = None) -> int:
    """Reads VideoLLaMA2's data from the command line; returns the exit code."""
    return run_source(SOURCE, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
