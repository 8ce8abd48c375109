"""EgoSchema: 5,031 five-option questions about three-minute clips of Ego4D (the reasoning task of EgoBench).

Source: github.com/egoschema/EgoSchema. Licence: no file in the repository; its abstract says "open-sourced … under the
Ego4D license". Version: `questions.json` with `question` in every row (August 2023 or later), `subset_answers.json`
with the 500 public labels, `uid_to_ego4d.json` (December 2024) with the place of every clip in Ego4D.

Labels of the other questions are on the organisers' server, so `answer_index` is null there and the options keep the
order of the source: the number of an option is what a submission sends.

Traps: keys with a space (`option 0`); the first version of `questions.json` has no `question`; the wearer is called "c"
or "C", so that a parser that takes the first capital letter finds option C.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import Field

from data_builders.distractors.quality import report_quality
from data_builders.ego4d import VIDEO_LAYOUTS
from data_builders.egobench.clip_lengths import ClipLengths
from data_builders.egobench.options import EgoBenchOptions, has_repeated_options, option_text, repeated_truths
from data_builders.media import MediaFolder
from data_builders.paper_counts import PaperCount
from data_builders.source import Account, Source, Tables, run_source
from exo2ego.errors import DataError
from exo2ego.raw.files import RawFiles
from exo2ego.raw.rows import FileStem, RawRow, Seconds, Text
from exo2ego.records import Question

NUM_OPTIONS = 5
CLIP_LAYOUTS = ("videos/{clip}.mp4", "good_clips_git/{clip}.mp4", "{clip}.mp4")
"""The official folder, and the one of VideoLLaMA2's and VideoChat2's evaluation."""


class EgoSchemaOptions(EgoBenchOptions):
    """Options of `python -m data_builders.egobench.egoschema`."""

    from_ego4d: bool = False
    """`videos` holds the full videos of Ego4D, and a clip is a span of one (needs `uid_to_ego4d.json`), instead of one
    file per clip."""


class QuestionRow(RawRow):
    """A row of `questions.json`."""

    q_uid: FileStem
    question: Text
    option_0: Text = Field(validation_alias="option 0")
    option_1: Text = Field(validation_alias="option 1")
    option_2: Text = Field(validation_alias="option 2")
    option_3: Text = Field(validation_alias="option 3")
    option_4: Text = Field(validation_alias="option 4")

    @property
    def options(self) -> list[str]:
        """The five options in the order of the source."""
        return [self.option_0, self.option_1, self.option_2, self.option_3, self.option_4]


class PlaceRow(RawRow):
    """A value of `uid_to_ego4d.json`: where a clip lies in a video of Ego4D."""

    video_uid: FileStem
    starting_sec: Seconds = Field(ge=0)
    ending_sec: Seconds


def read(options: EgoSchemaOptions, account: Account) -> Tables[Question]:
    """Returns the questions, with their label where it is public."""
    reader = _EgoSchema(options, account)
    return {"egoschema": reader.questions()}


class _EgoSchema:
    """The files of EgoSchema."""

    def __init__(self, options: EgoSchemaOptions, account: Account) -> None:
        self._options = options
        self._account = account
        self._files = RawFiles(options.root, "EgoSchema")
        self._path = self._files.find("questions.json", what="questions")
        self._media = MediaFolder(options, VIDEO_LAYOUTS if options.from_ego4d else CLIP_LAYOUTS, account)
        self._labels = self._read_labels()
        self._places = self._read_places()
        account.inputs = self._files.hashes()

    def questions(self) -> Iterator[Question]:
        """Yields the questions in the order of the file."""
        lengths = ClipLengths()
        labels: Counter[int] = Counter()
        for where, row in self._files.json_rows(self._path, QuestionRow, "questions"):
            label = self._labels.pop(row.q_uid, None)
            place = self._places.get(row.q_uid)
            question = self._question(where, row, label, place)
            if question is None:
                continue
            labels.update([] if label is None else [label])
            if place is None:
                lengths.videos.add(question.video)
            else:
                lengths.add(question.video, place.ending_sec - place.starting_sec)
            yield question
        lengths.tell(self._account, "egoschema", paper_mean_s=180.0)
        self._account.facts["egoschema_public_labels"] = sum(labels.values())
        self._account.facts["egoschema_public_labels_without_question"] = len(self._labels)
        self._account.facts["egoschema_public_labels_by_option"] = [labels[index] for index in range(NUM_OPTIONS)]

    def _question(self, where: str, row: QuestionRow, label: int | None, place: PlaceRow | None) -> Question | None:
        if not self._options.from_ego4d:
            video = self._media.find(where, clip=row.q_uid)
        elif place is None:
            self._account.drop("clip without a place in Ego4D", where)
            return None
        else:
            video = self._media.find(where, video=place.video_uid)
        if video is None:
            return None
        if has_repeated_options(row.options):
            self._account.note("two options are the same text", where)
        meta: dict[str, Any] = {}
        if place is not None:
            meta |= {
                "video_uid": place.video_uid,
                "recording_start_s": place.starting_sec,
                "recording_end_s": place.ending_sec,
            }
        if label is not None and (others := repeated_truths(row.options, label)):
            meta["same_as_truth"] = others
        span = place if self._options.from_ego4d else None
        return Question(
            id=f"egoschema/{row.q_uid}",
            task="egoschema",
            source="egoschema",
            split="test",
            video=video,
            start=span.starting_sec if span else None,
            end=span.ending_sec if span else None,
            question=row.question,
            options=[option_text(text, self._options.option_style) for text in row.options],
            answer_index=label,
            answer_text=None if label is None else row.options[label],
            meta=meta,
        )

    def _read_labels(self) -> dict[str, int]:
        if not self._files.has("subset_answers.json"):
            self._account.facts["egoschema_labels"] = "subset_answers.json is not there: no question has its label"
            return {}
        path = self._files.find("subset_answers.json", what="public labels")
        table = self._files.json_table(path, "public labels")
        for uid, label in table.items():
            if type(label) is not int or not 0 <= label < NUM_OPTIONS:
                raise DataError(f"{path}: entry {uid[:80]!a}: expected a label from 0 to 4, got {ascii(label)[:80]}")
        return table

    def _read_places(self) -> dict[str, PlaceRow]:
        if not self._options.from_ego4d and not self._files.has("uid_to_ego4d.json"):
            return {}
        path = self._files.find("uid_to_ego4d.json", what="places of the clips in Ego4D")
        places = {}
        for where, uid, place in self._files.json_members(path, PlaceRow, "places of the clips in Ego4D"):
            if place.ending_sec <= place.starting_sec:
                raise DataError(f"{where}: ends at {place.ending_sec} s, before it starts ({place.starting_sec} s)")
            places[uid] = place
        return places


SOURCE = Source(
    name="egoschema",
    kind="egobench",
    options=EgoSchemaOptions,
    read=read,
    tables=("egoschema",),
    paper={"egoschema": PaperCount(5_031, "Table 2")},
    finish=report_quality,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m data_builders.egobench.egoschema`."""
    return run_source(SOURCE, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
