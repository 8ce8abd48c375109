"""EgoTaskQA as two EgoBench tables of five-option questions: egotaskqa_direct and egotaskqa_indirect.

Source: EgoTaskQA (github.com/Buzz-Beater/EgoTaskQA), 40K questions about the videos of LEMMA. Licence: research only,
through the form on its site. Version: the `qa` folder of the download, either at the top or below `Data`.

Both tables are test files of two protocols, not a filter on `reference`: `direct` is the ordinary random split of all
questions, so the tables may share questions. The wrong options are the answers most similar to the truth (Exo2Ego
Supplement C.1.3).

Traps: video names contain `|`; intervals count frames at 24 per second; the `formatted_…_encode.json` files hold the
same rows; `answer_set.txt` begins with two tokens for unknown words, which are no answers; of the neighbours of "yes"
only "no" is a real alternative.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field

from data_builders.distractors.options import DistractorOptions, open_pool
from data_builders.distractors.pool import Neighbour
from data_builders.distractors.quality import report_quality
from data_builders.egobench.choices import arrange
from data_builders.egobench.clip_lengths import ClipLengths
from data_builders.egobench.first_person import ask_in_first_person
from data_builders.media import MediaFolder
from data_builders.paper_counts import PaperCount
from data_builders.source import Account, Source, Tables, run_source
from exo2ego.data.prompting import normal_form
from exo2ego.errors import DataError
from exo2ego.raw.files import RawFiles
from exo2ego.raw.rows import FileStem, OptionalText, RawRow, Text, frame_to_seconds
from exo2ego.records import Question

PROTOCOLS = ("direct", "indirect")
FOLDERS = ("qa", "Data/qa", ".")
FRAME_RATE = 24.0
"""Frames per second that the intervals count (LEMMA)."""
NUM_DISTRACTORS = 4
YES_OR_NO = frozenset({"yes", "no"})
_INTERVAL = re.compile(r"(?P<recording>.+)\|(?P<person>[^|]+)\|(?P<first>\d{1,9})\|(?P<end>\d{1,9})")
_UNKNOWN_WORD = re.compile(r"<UNK\d*>", re.IGNORECASE)


class EgoTaskQAOptions(DistractorOptions):
    """Options of `python -m data_builders.egobench.egotaskqa`."""

    pool: Literal["split", "answer_set", "test"] = "split"
    """Where wrong answers come from: the answers of train, val and test of the same protocol, the official
    answer_set.txt, or the answers of the test file alone."""
    answer_type: Literal["any", "same"] = "any"
    """same: yes/no questions get the other of yes and no as their only wrong option, and the rest never get yes or
    no."""
    first_person: bool = False
    """Ask about "I" instead of "the person"."""


class AnswerRow(RawRow):
    """What the pool of wrong answers needs of a question."""

    answer: Text


class QuestionRow(AnswerRow):
    """A row of `test_qas.json`."""

    question: Text
    interval: FileStem
    """`recording|person|first frame|end frame`, and the stem of the video."""
    question_id: int
    structural: OptionalText = Field(default="", validation_alias=AliasChoices("structural", "sturctural"))
    reference: OptionalText = ""
    reasoning_type: OptionalText = ""

    @property
    def answer_form(self) -> str:
        """`binary` for a question that yes or no answers, else `open`."""
        return "binary" if normal_form(self.answer) in YES_OR_NO else "open"


def read(options: EgoTaskQAOptions, account: Account) -> Tables[Question]:
    """Returns the questions of both test files."""
    files = RawFiles(options.root, "EgoTaskQA")
    media = MediaFolder(options, ("qa_videos/{interval}.mp4", "{interval}.mp4"), account)
    tests = {protocol: _find(files, protocol, "test") for protocol in PROTOCOLS}
    answers = {protocol: _answers(files, protocol, options.pool) for protocol in PROTOCOLS}
    account.inputs = files.hashes()
    return {
        f"egotaskqa_{protocol}": _Protocol(protocol, tests[protocol], files, media, options, account).questions(
            answers[protocol]
        )
        for protocol in PROTOCOLS
    }


class _Protocol:
    """One of the two test files."""

    def __init__(
        self,
        protocol: str,
        path: Path,
        files: RawFiles,
        media: MediaFolder,
        options: EgoTaskQAOptions,
        account: Account,
    ) -> None:
        self._protocol = protocol
        self._path = path
        self._files = files
        self._media = media
        self._options = options
        self._account = account

    def questions(self, answers: Sequence[str]) -> Iterator[Question]:
        truths = {row.answer for _, row in self._rows()}
        distractors = _distractors(sorted(truths), answers, self._options)
        seen: set[int] = set()
        lengths = ClipLengths()
        for where, row in self._rows():
            if row.question_id in seen:
                raise DataError(f"{where}: question_id {row.question_id} is given twice")
            seen.add(row.question_id)
            span_s = _span(row.interval, where)
            if span_s[1] <= span_s[0]:
                self._account.drop("interval without length", where)
                continue
            question = self._question(where, row, span_s, distractors[row.answer])
            if question is not None:
                lengths.add(row.interval, span_s[1] - span_s[0])
                yield question
        lengths.tell(self._account, f"egotaskqa_{self._protocol}", paper_mean_s=36.9)

    def _rows(self) -> Iterator[tuple[str, QuestionRow]]:
        return self._files.json_rows(self._path, QuestionRow, "EgoTaskQA test file")

    def _question(
        self, where: str, row: QuestionRow, span_s: tuple[float, float], distractors: Sequence[Neighbour]
    ) -> Question | None:
        table, options = f"egotaskqa_{self._protocol}", self._options
        if not distractors:
            self._account.drop("no other answer to choose from", where)
            return None
        video = self._media.find(where, interval=row.interval)
        if video is None:
            return None
        if len(distractors) < NUM_DISTRACTORS:
            self._account.note(f"fewer than {1 + NUM_DISTRACTORS} options", where)
        question_id = f"egotaskqa/{self._protocol}/{row.question_id}"
        choices = arrange(row.answer, distractors, task=table, question_id=question_id, seed=options.seed)
        return Question(
            id=question_id,
            task=table,
            source="egotaskqa",
            split="test",
            video=video,
            question=ask_in_first_person(row.question) if options.first_person else row.question,
            options=choices.printed(options.option_style),
            answer_index=choices.answer_index,
            answer_text=row.answer,
            meta={
                "answer_form": row.answer_form,
                "structural": row.structural,
                "reference": row.reference,
                "reasoning_type": row.reasoning_type,
                "recording_start_s": span_s[0],
                "recording_end_s": span_s[1],
                "similarities": choices.similarities,
            },
        )


def _find(files: RawFiles, protocol: str, split: str) -> Path:
    names = [f"{folder}/{protocol}/{split}_qas.json" for folder in FOLDERS]
    names += [f"{folder}/{protocol}/formatted_{split}_qas_encode.json" for folder in FOLDERS]
    return files.find(*names, what=f"{split} questions ({protocol})")


def _answers(files: RawFiles, protocol: str, pool: str) -> list[str]:
    """Returns the distinct answers that wrong options are taken from."""
    if pool == "answer_set":
        names = [f"{folder}/{protocol}/answer_set.txt" for folder in FOLDERS]
        path = files.find(*names, what=f"answer set ({protocol})")
        lines = {line.strip() for _, line in files.lines(path, "EgoTaskQA answer set")}
        return sorted(line for line in lines if line and not _UNKNOWN_WORD.fullmatch(line))
    splits = ("train", "val", "test") if pool == "split" else ("test",)
    paths = [_find(files, protocol, split) for split in splits]
    return sorted(
        {row.answer for path in paths for _, row in files.json_rows(path, AnswerRow, f"EgoTaskQA {path.name}")}
    )


def _distractors(
    truths: Sequence[str], answers: Sequence[str], options: EgoTaskQAOptions
) -> dict[str, list[Neighbour]]:
    """Returns the wrong options of every answer: they depend on the answer alone."""
    pool = open_pool(answers, options)
    if options.answer_type == "any":
        return dict(zip(truths, pool.nearest(truths, NUM_DISTRACTORS), strict=True))
    found: dict[str, list[Neighbour]] = {}
    for binary in (True, False):
        of_type = [truth for truth in truths if (normal_form(truth) in YES_OR_NO) == binary]
        allowed = [answer for answer in answers if (normal_form(answer) in YES_OR_NO) == binary]
        if of_type:
            found.update(zip(of_type, pool.nearest(of_type, NUM_DISTRACTORS, allowed=allowed), strict=True))
    return found


def _span(interval: str, where: str) -> tuple[float, float]:
    """Returns start and end in seconds of the video in LEMMA's recording."""
    parts = _INTERVAL.fullmatch(interval)
    if parts is None:
        raise DataError(f"{where}: interval {interval[:80]!a} is not `recording|person|first frame|end frame`")
    return frame_to_seconds(int(parts["first"]), FRAME_RATE), frame_to_seconds(int(parts["end"]), FRAME_RATE)


SOURCE = Source(
    name="egotaskqa",
    kind="egobench",
    options=EgoTaskQAOptions,
    read=read,
    tables=tuple(f"egotaskqa_{protocol}" for protocol in PROTOCOLS),
    paper={"egotaskqa_direct+egotaskqa_indirect": PaperCount(19_182, "Table 2")},
    finish=report_quality,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m data_builders.egobench.egotaskqa`."""
    return run_source(SOURCE, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
