"""EPIC-KITCHENS-100 multi-instance retrieval as an EgoBench table of five-option questions: ek100_mir.

Source: github.com/epic-kitchens/epic-kitchens-100-annotations, `retrieval_annotations`. Licence: CC BY-NC 4.0. Version:
the repository's `EPIC_100_retrieval_test.csv` (9,668 clips; `EPIC_100_validation.csv` is the same file).

Which caption tells the clip? The wrong options are the captions of the test file most similar to the truth (Exo2Ego
Supplement C.1.5). Among them are captions of the same action in other words, as in the paper's own example (grab and
take mozzarella); `meta.also_correct` tells them and `meta.relevance` has the official relevance of every option.

Traps: the last rows of the sentence file carry the caption of the next row, so captions are looked up by narration id;
frame numbers and extracted frames count 60 per second for every video of 2018, also for those recorded at 30, 48 or 90,
so only timestamps are used;
noun classes are written as Python lists and can hold one class twice; some captions belong to several classes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from data_builders.distractors.options import DistractorOptions, open_pool
from data_builders.distractors.pool import Neighbour
from data_builders.distractors.quality import report_quality
from data_builders.egobench.choices import arrange
from data_builders.egobench.clip_lengths import ClipLengths
from data_builders.egobench.ek100_relevancy import Captions
from data_builders.media import MediaFolder
from data_builders.paper_counts import PaperCount
from data_builders.source import Account, Source, Tables, run_source
from exo2ego.action_relevancy import ActionClass
from exo2ego.errors import DataError
from exo2ego.raw.epic_kitchens import VIDEO_LAYOUTS, frame_rate_of
from exo2ego.raw.files import RawFiles
from exo2ego.raw.rows import ClockSeconds, FileStem, PythonList, RawRow, Text
from exo2ego.records import Question

TABLE = "ek100_mir"
OTHER_CAPTIONS = f"{TABLE}_captions_that_differ_from_the_sentence_file"
"""Fact of the account: the caption of the test file counts."""
QUESTION = (
    "Given a query video segment, how can captions be ranked so that those with a higher rank are more semantically "
    "relevant to the action in the query video segment?"
)
"""Exo2Ego Table 12."""
NUM_DISTRACTORS = 4
VIDEO_SUFFIX = ".mp4"
NounClasses = Annotated[list[int], PythonList, Field(min_length=1)]


class EK100Options(DistractorOptions):
    """Options of `python -m data_builders.egobench.ek100_mir`."""

    pool: Literal["test", "train+test"] = "test"
    """Whose captions are wrong options."""
    exclude_equivalent: bool = False
    """Take no caption of the same action class as a wrong option (the paper does not check)."""


class ClipRow(RawRow):
    """A row of the test file."""

    narration_id: FileStem
    participant: FileStem = Field(validation_alias="participant_id")
    video: FileStem = Field(validation_alias="video_id")
    start_s: ClockSeconds = Field(validation_alias="start_timestamp")
    end_s: ClockSeconds = Field(validation_alias="stop_timestamp")
    caption: Text = Field(validation_alias="narration")
    verb_class: int
    noun_classes: NounClasses = Field(validation_alias="all_noun_classes")

    @property
    def action(self) -> ActionClass:
        """The class of the action."""
        return ActionClass(self.verb_class, frozenset(self.noun_classes))


class SentenceRow(RawRow):
    """A row of the test sentence file."""

    narration_id: FileStem
    caption: Text = Field(validation_alias="narration")


class TrainSentenceRow(SentenceRow):
    """A row of the train sentence file."""

    verb_class: int
    noun_classes: NounClasses


def read(options: EK100Options, account: Account) -> Tables[Question]:
    """Returns one question per clip of the test file."""
    files = RawFiles(options.root, "EPIC-KITCHENS-100 annotations")
    clips = read_clips(files)
    captions = Captions(read_captions(files, clips, options.pool, account))
    account.inputs = files.hashes()
    return {TABLE: _questions(clips, captions, options, account)}


def _in_retrieval_folder(*names: str) -> list[str]:
    return [f"{folder}{name}" for name in names for folder in ("retrieval_annotations/", "")]


def read_clips(files: RawFiles) -> dict[str, tuple[str, ClipRow]]:
    """Returns place and row of the test file by narration id."""
    names = _in_retrieval_folder("EPIC_100_retrieval_test.csv", "EPIC_100_validation.csv")
    path = files.find(*names, what="the retrieval test file")
    clips: dict[str, tuple[str, ClipRow]] = {}
    for where, row in files.csv_rows(path, ClipRow, "EPIC-KITCHENS-100 retrieval test file"):
        if row.narration_id in clips:
            raise DataError(f"{where}: narration_id {row.narration_id} is given twice")
        clips[row.narration_id] = where, row
    return clips


def read_captions(
    files: RawFiles, clips: Mapping[str, tuple[str, ClipRow]], pool: str, account: Account
) -> Iterator[tuple[str, ActionClass]]:
    """Yields caption and class of every row of the sentence file, and of train with `pool="train+test"`."""
    names = _in_retrieval_folder("EPIC_100_retrieval_test_sentence.csv")
    path = files.find(*names, what="the test sentence file")
    account.facts[OTHER_CAPTIONS] = 0
    for where, sentence in files.csv_rows(path, SentenceRow, "EPIC-KITCHENS-100 test sentence file"):
        if sentence.narration_id not in clips:
            raise DataError(f"{where}: {sentence.narration_id} is not in the test file; are both of one version?")
        _, clip = clips[sentence.narration_id]
        account.facts[OTHER_CAPTIONS] += sentence.caption != clip.caption
        yield clip.caption, clip.action
    if pool == "train+test":
        names = _in_retrieval_folder("EPIC_100_retrieval_train_sentence.csv")
        path = files.find(*names, what="the train sentence file (pool=train+test)")
        for _, row in files.csv_rows(path, TrainSentenceRow, "EPIC-KITCHENS-100 train sentence file"):
            yield row.caption, ActionClass(row.verb_class, frozenset(row.noun_classes))


def _questions(
    clips: Mapping[str, tuple[str, ClipRow]],
    captions: Captions,
    options: EK100Options,
    account: Account,
) -> Iterator[Question]:
    media = MediaFolder(options, VIDEO_LAYOUTS, account)
    lengths = ClipLengths()
    distractors = _distractors([row for _, row in clips.values()], captions, options)
    for where, row in clips.values():
        if row.end_s <= row.start_s:
            account.drop("clip without length", where)
            continue
        video = media.find(where, participant=row.participant, video=row.video)
        if video is None:
            continue
        is_file = video.lower().endswith(VIDEO_SUFFIX)
        frame_rate = None if is_file else _rate_of_pictures(row.video, where)
        lengths.add(row.video, row.end_s - row.start_s)
        yield _question(row, video, frame_rate, distractors[row.caption, row.action], captions, options)
    lengths.tell(account, TABLE, paper_mean_s=3.7)


def _rate_of_pictures(video: str, where: str) -> float:
    try:
        return frame_rate_of(video)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error


def _distractors(
    rows: Sequence[ClipRow], captions: Captions, options: EK100Options
) -> dict[tuple[str, ActionClass], list[Neighbour]]:
    """Returns the wrong options by caption and class of the clip: a caption can tell clips of several classes."""
    keys = list(dict.fromkeys((row.caption, row.action) for row in rows))
    pool = open_pool(captions.texts, options)
    excluded = [captions.equivalents.get(action, set()) for _, action in keys] if options.exclude_equivalent else None
    nearest = pool.nearest([caption for caption, _ in keys], NUM_DISTRACTORS, excluded=excluded)
    return dict(zip(keys, nearest, strict=True))


def _question(
    row: ClipRow,
    video: str,
    frame_rate: float | None,
    distractors: Sequence[Neighbour],
    captions: Captions,
    options: EK100Options,
) -> Question:
    question_id = f"{TABLE}/{row.narration_id}"
    choices = arrange(row.caption, distractors, task=TABLE, question_id=question_id, seed=options.seed)
    relevance = [
        1.0 if index == choices.answer_index else captions.relevance(text, row.action)
        for index, text in enumerate(choices.texts)
    ]
    return Question(
        id=question_id,
        task=TABLE,
        source=TABLE,
        split="test",
        video=video,
        start=row.start_s,
        end=row.end_s,
        question=QUESTION,
        options=choices.printed(options.option_style),
        answer_index=choices.answer_index,
        answer_text=row.caption,
        frame_rate=frame_rate,
        meta={
            "verb_class": row.verb_class,
            "noun_classes": sorted(set(row.noun_classes)),
            "relevance": relevance,
            "also_correct": [
                index for index, value in enumerate(relevance) if value == 1.0 and index != choices.answer_index
            ],
            "similarities": choices.similarities,
        },
    )


SOURCE = Source(
    name=TABLE,
    kind="egobench",
    options=EK100Options,
    read=read,
    tables=(TABLE,),
    paper={TABLE: PaperCount(9668, "Table 2")},
    finish=report_quality,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m data_builders.egobench.ek100_mir`."""
    return run_source(SOURCE, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
