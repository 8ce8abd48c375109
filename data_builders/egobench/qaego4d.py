"""QAEgo4D: questions to one's own memory about clips of Ego4D, closed (four options) and open (free text).

Source: open questions github.com/lbaermann/qaego4d (`answers.json`, joined with Ego4D v1's `nlq_val.json`), or the same
rows as GroundVQA publishes them; closed ones github.com/Becomebright/GroundVQA, whose three wrong answers were written
by Llama-2-13B-chat. Licence: answers by signed licence, non-commercial research; GroundVQA's code MIT; videos by Ego4D.
Version: any; the closed test file was "updated with rigorous human verification" in February 2024 and has fewer rows.

A question shows the whole canonical clip, not the window that holds its answer, which goes into `meta` (seconds from
the start of the clip). The closed file stores no order of its options; they are shuffled by seed and sample id.

Traps: `video_id` is the clip's uid, not the video's; commas and line breaks are gone from the texts; the window may
have no length; wrong answers may be bare numbers or null; both val and test of `answers.json` point into
`nlq_val.json`; a query may have no text.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, RootModel

from data_builders.distractors.quality import report_quality
from data_builders.ego4d import CLIP_LAYOUTS, FRAME_RATE
from data_builders.egobench.clip_lengths import ClipLengths
from data_builders.egobench.nlq import read_queries
from data_builders.egobench.options import (
    EgoBenchOptions,
    has_repeated_options,
    option_text,
    repeated_truths,
    shuffled_options,
)
from data_builders.media import MediaFolder
from data_builders.paper_counts import PaperCount
from data_builders.source import Account, Source, Tables, run_source
from exo2ego.raw.files import RawFiles
from exo2ego.raw.rows import FileStem, GeneratedText, OptionalText, RawRow, Seconds
from exo2ego.records import Question

FOLDERS = ("", "unified/", "data/unified/")
"""Where GroundVQA's `data.zip` puts its files."""
CLOSE_FILE = "annotations.QaEgo4D_test_close.json"
OPEN_FILES = ("annotations.QaEgo4D_test.json", "annotations.test.json")
"""Of GroundVQA, and what the original's own tool makes of `answers.json`."""
ANSWERS_FILE = "answers.json"


class QAEgo4DOptions(EgoBenchOptions):
    """Options of `python -m data_builders.egobench.qaego4d`."""

    nlq: Path | None = None
    """Ego4D's nlq_val.json (v1), where it is not in `root`; needed beside `answers.json` alone."""


class OpenRow(RawRow):
    """A question with its answer and the window that shows it, in frames of the clip at 30 per second."""

    sample_id: FileStem
    video_id: FileStem
    """The clip."""
    question: OptionalText
    answer: OptionalText
    moment_start_frame: Seconds
    moment_end_frame: Seconds
    video_uid: OptionalText = ""
    """The video of Ego4D that the clip is cut from."""


class Answer(RootModel[OptionalText]):
    """A value of `answers.json`."""


class ClosedRow(OpenRow):
    """A question with three wrong answers."""

    wrong_answers: list[GeneratedText] = Field(min_length=3, max_length=3)


Rows = Iterator[tuple[str, OpenRow]] | Iterator[tuple[str, ClosedRow]]


def read(options: QAEgo4DOptions, account: Account) -> Tables[Question]:
    """Returns the tables whose files are there: qaego4d_close, qaego4d_open."""
    files = RawFiles(options.root, "QAEgo4D")
    close_names = [folder + CLOSE_FILE for folder in FOLDERS]
    open_names = [folder + name for folder in FOLDERS for name in OPEN_FILES]
    rows: dict[str, Rows] = {}
    if files.has(*close_names):
        what = "closed test questions"
        rows["qaego4d_close"] = files.json_rows(files.find(*close_names, what=what), ClosedRow, what)
    if files.has(*open_names):
        what = "open test questions"
        rows["qaego4d_open"] = files.json_rows(files.find(*open_names, what=what), OpenRow, what)
    elif files.has(ANSWERS_FILE):
        rows["qaego4d_open"] = _joined_rows(files, options, account)
    if not rows:
        files.find(*close_names, *open_names, ANSWERS_FILE, what="test questions")
    for table in set(SOURCE.tables) - set(rows):
        account.facts[table] = "not built: its file is not there"
    media = MediaFolder(options, CLIP_LAYOUTS, account)
    return {table: _questions(table, of_table, files, media, options, account) for table, of_table in rows.items()}


def _questions(
    table: str, rows: Rows, files: RawFiles, media: MediaFolder, options: QAEgo4DOptions, account: Account
) -> Iterator[Question]:
    lengths = ClipLengths()
    for where, row in rows:
        wrong = row.wrong_answers if isinstance(row, ClosedRow) else []
        if not (row.question and row.answer and all(wrong)):
            account.drop("no question, no answer or an empty option", where)
            continue
        video = media.find(where, clip=row.video_id)
        if video is None:
            continue
        if row.moment_end_frame <= row.moment_start_frame:
            account.note("the window of the answer has no length", where)
        if has_repeated_options([row.answer, *wrong]):
            account.note("two options are the same text", where)
        lengths.videos.add(video)
        yield _question(table, row, wrong, video, options)
    lengths.tell(account, table, paper_mean_s=310.0)
    account.inputs = files.hashes()


def _question(table: str, row: OpenRow, wrong: Sequence[str], video: str, options: QAEgo4DOptions) -> Question:
    meta: dict[str, Any] = {
        "evidence_start_s": round(row.moment_start_frame / FRAME_RATE, 6),
        "evidence_end_s": round(row.moment_end_frame / FRAME_RATE, 6),
        "clip_uid": row.video_id,
    }
    if row.video_uid:
        meta["video_uid"] = row.video_uid
    texts: list[str] = []
    answer_index = None
    if wrong:
        texts, answer_index = shuffled_options(
            row.answer, wrong, task=table, question_id=row.sample_id, seed=options.seed
        )
        if others := repeated_truths(texts, answer_index):
            meta["same_as_truth"] = others
    return Question(
        id=f"{table.replace('_', '/')}/{row.sample_id}",
        task=table,
        source="qaego4d",
        split="test",
        video=video,
        question=row.question,
        options=[option_text(text, options.option_style) for text in texts],
        answer_index=answer_index,
        answer_text=row.answer,
        meta=meta,
    )


def _joined_rows(files: RawFiles, options: QAEgo4DOptions, account: Account) -> Rows:
    """Yields the rows that the original's own tool makes of `answers.json` and `nlq_val.json`."""
    path = files.find(ANSWERS_FILE, what="answers")
    answers = {name: answer.root for _, name, answer in files.json_members(path, Answer, "answers", key="test")}
    nlq = options.nlq or files.find(
        "nlq_val.json", "annotations/nlq_val.json", "v1/annotations/nlq_val.json", what="Ego4D's nlq_val.json (v1)"
    )
    for where, query in read_queries(files, nlq):
        answer = answers.pop(query.sample_id, None)
        if answer is not None:
            yield (
                where,
                OpenRow(
                    sample_id=query.sample_id,
                    video_id=query.clip_uid,
                    question=_without_commas(query.text),
                    answer=_without_commas(answer),
                    moment_start_frame=query.clip_start_s * FRAME_RATE,
                    moment_end_frame=query.clip_end_s * FRAME_RATE,
                    video_uid=query.video_uid,
                ),
            )
    for sample_id in answers:
        account.drop("answer to a query that nlq_val.json does not have", f"{path}: {sample_id[:80]!a}")


def _without_commas(text: str) -> str:
    return text.replace("\n", "").replace(",", "").strip()


SOURCE = Source(
    name="qaego4d",
    kind="egobench",
    options=QAEgo4DOptions,
    read=read,
    tables=("qaego4d_close", "qaego4d_open"),
    paper={
        "qaego4d_close": PaperCount(
            1_854, "Table 2", reason="the closed file was verified by hand in 2024 and became smaller"
        ),
        "qaego4d_open": PaperCount(1_854, "Table 2"),
    },
    finish=report_quality,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m data_builders.egobench.qaego4d`."""
    return run_source(SOURCE, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
