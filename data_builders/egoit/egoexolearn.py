"""EgoExoLearn as EgoIT conversations: captions of what the wearer does in kitchens and laboratories.

Source: EgoExoLearn (github.com/OpenGVLab/EgoExoLearn), fine captions of 421 first-person videos. Licence: MIT. Version:
`annotations/fine_annotation_trainval_en.csv`; videos `<video_uid>.mp4`.

The ego view of train and val are the 45K of Exo2Ego Table 1, as far as the public part of the files lets one count.

Traps: splits are made by annotation, all videos are in each of them, so the column `subset` decides; the view is the
column `view`, since exo videos can have the suffix of ego ones; the id column is `annotation_id` in the files and
`annotation_uid` in their description; `fine_annotation_test.csv` has no captions; `fine_annotation_trainvaltest_en.csv`
has those of the test split too, which are left out; some captions are empty; fields hold commas.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, BeforeValidator, Field

from data_builders.egoit.conversations import ConversationMaker
from data_builders.egoit.first_person import first_person
from data_builders.media import MediaFolder
from data_builders.paper_counts import PaperCount
from data_builders.source import Account, EgoITOptions, Source, Tables, run_source
from exo2ego.errors import DataError
from exo2ego.raw.files import RawFiles
from exo2ego.raw.rows import FileStem, OptionalText, RawRow, Seconds
from exo2ego.records import Conversation

DATASET = "EgoExoLearn"
QUESTION = "What activities am I engaged in?"
"""Exo2Ego Figure 3, whose example is of this source."""
KIND = "captioning"
FILES = ("fine_annotation_trainval_en.csv", "fine_annotation_trainvaltest_en.csv")
WITHOUT_CAPTIONS = "fine_annotation_test.csv"
LAYOUTS = ("{video}.mp4", "videos/{video}.mp4", "full/{video}.mp4", "320p/{video}.mp4")
Narration = Literal["no_hand_prompt", "hand_prompt", "annotated"]


class EgoExoLearnOptions(EgoITOptions):
    """Options of `python -m data_builders.egoit.egoexolearn`."""

    narration: Narration = "no_hand_prompt"
    """Which of the three captions: the one rewritten without left and right (that of Figure 3), the one that tells what
    each hand does, or the one that was annotated."""
    first_person: bool = False
    """Whether captions are retold by the wearer: "I use my hand" for "Use your hand"."""


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


class CaptionRow(RawRow):
    """A line of the table."""

    annotation_id: FileStem = Field(validation_alias=AliasChoices("annotation_id", "annotation_uid"))
    video_uid: FileStem
    subset: Annotated[Literal["train", "val", "test"], BeforeValidator(_lower)]
    view: Annotated[Literal["ego", "exo"], BeforeValidator(_lower)]
    start_sec: Seconds
    end_sec: Seconds
    narration_en: OptionalText
    narration_en_hand_prompt: OptionalText
    narration_en_no_hand_prompt: OptionalText

    def caption(self, narration: Narration) -> str:
        """Returns one of the three captions."""
        if narration == "annotated":
            return self.narration_en
        return self.narration_en_hand_prompt if narration == "hand_prompt" else self.narration_en_no_hand_prompt


def read(options: EgoExoLearnOptions, account: Account) -> Tables[Conversation]:
    """Reads the captions in the order of the file."""
    files = RawFiles(options.root, DATASET)
    path = _caption_file(files)
    maker = ConversationMaker("egoexolearn", options, account)
    media = MediaFolder(options, LAYOUTS, account)

    def conversations() -> Iterator[Conversation]:
        for where, row in files.csv_rows(path, CaptionRow, "fine captions"):
            conversation_id = maker.new_id(row.annotation_id, where)
            caption = row.caption(options.narration)
            reason = _reason_against(row, caption)
            if reason is not None:
                account.drop(reason, where)
                continue
            span = row.start_sec, row.end_sec
            video = media.find(where, video=row.video_uid) if maker.can_show(span, where) else None
            if video is not None:
                answer = first_person(caption) if options.first_person else caption
                yield maker.make(where, conversation_id, video, QUESTION, answer, KIND, span)
        account.inputs = {**files.hashes(), **maker.inputs()}

    return {"egoexolearn": conversations()}


def _caption_file(files: RawFiles) -> Path:
    places = [place for name in FILES for place in (f"annotations/{name}", name)]
    if not files.has(*places) and files.has(f"annotations/{WITHOUT_CAPTIONS}", WITHOUT_CAPTIONS):
        raise DataError(
            f"{files.root}: {WITHOUT_CAPTIONS} has no captions, nothing can be trained on it; expected {FILES[0]} of "
            f"{DATASET}, from the same `annotations` folder"
        )
    return files.find(*places, what="fine captions")


def _reason_against(row: CaptionRow, caption: str) -> str | None:
    if row.view == "exo":
        return "exo_view"
    if row.subset == "test":
        return "test_subset"
    return None if caption else "no_caption"


SOURCE = Source(
    name="egoexolearn",
    kind="egoit",
    options=EgoExoLearnOptions,
    read=read,
    tables=("egoexolearn",),
    paper={
        "egoexolearn": PaperCount(
            45_000,
            "Table 1",
            rounded_to=1000,
            reason="about 44.7K are expected: the public counts of valid rows of the ego view, train and val",
        )
    },
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_source(SOURCE, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
