"""EgoTimeQA as EgoIT conversations: questions about a moment of a first-person clip, open and closed.

Source: GroundVQA (github.com/Becomebright/GroundVQA, data.zip), 303K questions that a language model wrote from the
narrations of 5,389 Ego4D clips. Licence: MIT for the questions, the Ego4D licence for the clips. Version: the file
`annotations.EgoTimeQA.json`; the clips by `ego4d --datasets clips`.

Half of the questions, drawn by seed and id, become closed ones with the three wrong answers of the source and the
answer `(B) text`, the others open ones: as GroundVQA trains, which draws anew in every epoch. "It offers two settings"
(Exo2Ego Table 11) leaves the shares open.

Traps: `video_id` is a clip, and `sample_id` the same, so rows get ids of their own, numbered within their clip; moments
count frames at 30 per second from the start of the clip, whatever its frame rate; a moment may start before the clip;
the word `l` in a question stands for `I`; wrong answers may repeat the truth; rows with `video_start_sec` are QAEgo4D,
whose test split belongs to EgoBench.
"""

from __future__ import annotations

import random
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import FiniteFloat

from data_builders.ego4d import CLIP_LAYOUTS, FRAME_RATE
from data_builders.egobench.options import has_repeated_options
from data_builders.egoit.conversations import ChoiceAnswer, ConversationMaker
from data_builders.media import MediaFolder
from data_builders.paper_counts import PaperCount
from data_builders.source import Account, EgoITOptions, Source, Tables, run_source
from exo2ego.errors import DataError
from exo2ego.raw.files import RawFiles
from exo2ego.raw.rows import FileStem, GeneratedText, RawRow, frame_to_seconds
from exo2ego.records import Conversation

DATASET = "EgoTimeQA"
FILE = "annotations.EgoTimeQA.json"
NUM_CHOICES = 4
_SMALL_L = re.compile(r"(?<!\S)l(?=[\s?.,!]|$|['’](?:m|d|ll|ve)\b)")


class EgoTimeQAOptions(EgoITOptions):
    """Options of `python -m data_builders.egoit.egotimeqa`."""

    form: Literal["mixed", "open", "closed"] = "mixed"
    """open: the answer in words; closed: a choice among four; mixed: half of each."""
    choice_answer: ChoiceAnswer = "letter_and_text"
    """What a closed question is answered with: `(B) text`, the letter, or the text."""


class QuestionRow(RawRow):
    """An item of the file."""

    video_id: FileStem
    question: GeneratedText
    answer: GeneratedText
    moment_start_frame: FiniteFloat
    moment_end_frame: FiniteFloat
    wrong_answers: list[GeneratedText]
    video_start_sec: Any = None

    def moment_s(self) -> tuple[float, float]:
        """Returns start and end in seconds of the clip."""
        first, last = self.moment_start_frame, self.moment_end_frame
        return frame_to_seconds(first, FRAME_RATE), frame_to_seconds(last, FRAME_RATE)

    def has_four_choices(self) -> bool:
        """Says whether the answer and the wrong ones make a choice."""
        choices = [self.answer, *self.wrong_answers]
        return len(choices) == NUM_CHOICES and all(choices) and not has_repeated_options(choices)


def read(options: EgoTimeQAOptions, account: Account) -> Tables[Conversation]:
    """Reads the questions in the order of the file."""
    files = RawFiles(options.root, DATASET)
    path = files.find(FILE, f"data/unified/{FILE}", f"unified/{FILE}", what="questions")
    maker = ConversationMaker("egotimeqa", options, account)
    media = MediaFolder(options, CLIP_LAYOUTS, account)

    def conversations() -> Iterator[Conversation]:
        rows_of_clip: Counter[str] = Counter()
        for where, row in files.json_rows(path, QuestionRow, "questions"):
            if row.video_start_sec is not None:
                raise DataError(f"{where}: has `video_start_sec`: a row of QAEgo4D; expected the file {FILE}")
            conversation_id = maker.new_id(f"{row.video_id}/{rows_of_clip[row.video_id]}", where)
            rows_of_clip[row.video_id] += 1
            if not (row.question and row.answer):
                account.drop("no_question_or_answer", where)
                continue
            if options.form == "closed" and not row.has_four_choices():
                account.drop("not_four_different_choices", where)
                continue
            span = row.moment_s()
            video = media.find(where, clip=row.video_id) if maker.can_show(span, where) else None
            if video is None:
                continue
            closed = _is_closed(options, conversation_id)
            if closed and not row.has_four_choices():
                closed = False
                account.note("open_because_not_four_different_choices", where)
            question = _SMALL_L.sub("I", row.question)
            kind = "closed_qa" if closed else "open_qa"
            conversation = maker.make(where, conversation_id, video, question, row.answer, kind, span)
            yield maker.as_choice(conversation, row.wrong_answers, options.choice_answer) if closed else conversation
        account.inputs = {**files.hashes(), **maker.inputs()}

    return {"egotimeqa": conversations()}


def _is_closed(options: EgoTimeQAOptions, conversation_id: str) -> bool:
    """Says whether a row becomes a closed question, drawn for its id where forms are mixed."""
    if options.form == "mixed":
        return random.Random(f"{options.seed}/form/{conversation_id}").random() < 0.5
    return options.form == "closed"


SOURCE = Source(
    name="egotimeqa",
    kind="egoit",
    options=EgoTimeQAOptions,
    read=read,
    tables=("egotimeqa",),
    paper={"egotimeqa": PaperCount(303_000, "Table 1", rounded_to=1000, reason="303K are all rows of the file")},
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_source(SOURCE, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
