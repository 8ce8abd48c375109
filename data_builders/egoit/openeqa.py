"""OpenEQA as EgoIT conversations: open questions about a walk through rooms.

Source: OpenEQA (github.com/facebookresearch/open-eqa), 1,636 questions about 152 episodes of ScanNet and HM3D. Licence:
MIT for the questions; the frames have the terms of ScanNet and HM3D. Version: `open-eqa-v0.json`.

It is a benchmark without a train split; the paper trains on all of it (1.6K in Exo2Ego Table 1), so a model trained on
this source must not be reported on OpenEQA.

Traps: an episode is a folder of frames with depth maps and poses among them, or `<episode>-0.mp4` where the authors'
`frames2videos.py` was run (it writes to `viewer/static/videos`); one question of one episode is there twice; 263 rows
have four further right answers, and some of those say the same.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from pydantic import Field

from data_builders.egoit.conversations import ConversationMaker
from data_builders.media import MediaFolder
from data_builders.paper_counts import PaperCount
from data_builders.source import Account, EgoITOptions, Source, Tables, run_source
from exo2ego.data.prompting import normal_form
from exo2ego.raw.files import RawFiles
from exo2ego.raw.rows import FileStem, OptionalText, RawRow, RelativePath, Text
from exo2ego.records import Conversation

DATASET = "OpenEQA"
KIND = "open_qa"
LAYOUTS = (
    "data/frames/{episode}",
    "frames/{episode}",
    "{episode}",
    "viewer/static/videos/{episode}-0.mp4",
    "videos/{episode}-0.mp4",
    "{episode}-0.mp4",
)


class OpenEQAOptions(EgoITOptions):
    """Options of `python -m data_builders.egoit.openeqa`."""

    extra_answers: bool = False
    """Whether each further right answer makes a conversation of its own."""


class QuestionRow(RawRow):
    """An item of the file."""

    question_id: FileStem
    question: Text
    answer: Text
    episode_history: RelativePath
    """`<hm3d-v0 or scannet-v0>/<episode>`."""
    extra_answers: list[OptionalText] = Field(default=[])


def read(options: OpenEQAOptions, account: Account) -> Tables[Conversation]:
    """Reads the questions in the order of the file."""
    files = RawFiles(options.root, DATASET)
    path = files.find("data/open-eqa-v0.json", "open-eqa-v0.json", what="questions")
    maker = ConversationMaker("openeqa", options, account)
    media = MediaFolder(options, LAYOUTS, account)

    def conversations() -> Iterator[Conversation]:
        asked: set[tuple[str, str]] = set()
        for where, row in files.json_rows(path, QuestionRow, "questions"):
            conversation_id = maker.new_id(row.question_id, where)
            video = media.find(where, episode=row.episode_history)
            if video is None:
                continue
            asks = (row.episode_history, normal_form(row.question))
            if asks in asked:
                account.note("same_question_of_the_same_episode", where)
            asked.add(asks)
            yield maker.make(where, conversation_id, video, row.question, row.answer, KIND)
            for number, answer in enumerate(_further_answers(row) if options.extra_answers else [], 1):
                yield maker.make(where, f"{conversation_id}/{number}", video, row.question, answer, KIND)
        account.inputs = {**files.hashes(), **maker.inputs()}

    return {"openeqa": conversations()}


def _further_answers(row: QuestionRow) -> list[str]:
    """Returns the further answers that say something else than the first, each once."""
    different = {normal_form(answer): answer for answer in reversed(row.extra_answers) if normal_form(answer)}
    different.pop(normal_form(row.answer), None)
    return list(reversed(different.values()))


SOURCE = Source(
    name="openeqa",
    kind="egoit",
    options=OpenEQAOptions,
    read=read,
    tables=("openeqa",),
    paper={"openeqa": PaperCount(1_600, "Table 1", rounded_to=100, reason="1.6K are all 1,636 rows of the file")},
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_source(SOURCE, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
