"""Charades-Ego as an EgoBench table of five-option questions about one action per first-person video: charades_ego.

Source: CharadesEgo v1 (AI2), `CharadesEgo_v1_test_only1st.csv` and `Charades_v1_classes.txt`. Licence: non-commercial,
its license.txt must go with the data.

The paper asks one question per video and shows a clip of 10.8 s on average, so one of the video's actions was chosen;
which one is not stated. Here it is drawn by seed and video id. The wrong options are the classes most similar to the
truth (Exo2Ego Supplement C.1.4).

Traps: columns go by their names, since the field list of the README lacks `objects`; class texts can end in a space;
actions often end after their video does; a video may have no action, or one class several times; a wrong option often
happens as well, which `meta.also_correct` tells.
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import Field, FiniteFloat

from data_builders.distractors.options import DistractorOptions, open_pool
from data_builders.distractors.pool import Neighbour
from data_builders.distractors.quality import report_quality
from data_builders.egobench.choices import arrange
from data_builders.egobench.clip_lengths import ClipLengths
from data_builders.media import MediaFolder
from data_builders.paper_counts import PaperCount
from data_builders.source import Account, Source, Tables, run_source
from exo2ego.errors import DataError
from exo2ego.raw.files import RawFiles
from exo2ego.raw.rows import FileStem, Flag, OptionalText, RawRow
from exo2ego.records import Question

TABLE = "charades_ego"
QUESTION = "What action am I currently performing?"
"""Exo2Ego Table 12."""
NUM_DISTRACTORS = 4
CUT, LEFT_OUT = f"{TABLE}_actions_cut_to_their_video", f"{TABLE}_actions_without_length_or_outside"
"""Facts of the account about the actions of first-person videos, of which a row has many."""
LAYOUTS = ("CharadesEgo_v1_480/{video}.mp4", "CharadesEgo_v1/{video}.mp4", "{video}.mp4")
_CLASS = re.compile(r"(c\d{3})\s+(\S.*)")
_ACTION = re.compile(r"(c\d{3})\s+(\d+(?:\.\d*)?)\s+(\d+(?:\.\d*)?)")


class CharadesEgoOptions(DistractorOptions):
    """Options of `python -m data_builders.egobench.charades_ego`."""

    min_action_s: float = Field(default=1.0, ge=0)
    """Shortest action that is drawn, in seconds; a video that has only shorter ones gives one of those."""
    exclude_equivalent: bool = False
    """Take no class as a wrong option that also happens within the clip (the paper does not check)."""


class VideoRow(RawRow):
    """A row of the CSV: one video."""

    video: FileStem = Field(validation_alias="id")
    actions: OptionalText
    """`class start end;…` in seconds; may be empty."""
    length: FiniteFloat = Field(gt=0)
    egocentric: Flag = None

    @property
    def is_first_person(self) -> bool:
        """What the file says; where it says nothing, what the id says."""
        return self.video.endswith("EGO") if self.egocentric is None else self.egocentric


@dataclass(frozen=True)
class Action:
    """A class and when it happens, in seconds."""

    class_id: str
    start_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        """Seconds."""
        return self.end_s - self.start_s

    def overlaps(self, other: Action) -> bool:
        """Whether both happen at one instant."""
        return self.start_s < other.end_s and other.start_s < self.end_s


def read(options: CharadesEgoOptions, account: Account) -> Tables[Question]:
    """Returns one question for every first-person video that has an action."""
    files = RawFiles(options.root, "Charades-Ego")
    names = ("CharadesEgo_v1_test_only1st.csv", "CharadesEgo_v1_test.csv")
    path = files.find(*names, *(f"CharadesEgo/{name}" for name in names), what="the test file")
    classes = _read_classes(files)
    videos = list(_read_videos(files, path, classes, account))
    account.inputs = files.hashes()
    return {TABLE: _questions(videos, classes, options, account)}


def _read_classes(files: RawFiles) -> dict[str, str]:
    name = "Charades_v1_classes.txt"
    path = files.find(name, f"CharadesEgo/{name}", what="the list of classes")
    classes: dict[str, str] = {}
    for where, line in files.lines(path, "Charades classes"):
        if not line.strip():
            continue
        parts = _CLASS.fullmatch(line.strip())
        if parts is None:
            raise DataError(f"{where}: expected a class id and its text as in `c000 Holding some clothes`")
        if parts[1] in classes:
            raise DataError(f"{where}: class {parts[1]} is given twice")
        classes[parts[1]] = parts[2]
    if len(classes) <= NUM_DISTRACTORS:
        raise DataError(f"{path}: expected 157 classes, got {len(classes)}")
    return classes


def _read_videos(
    files: RawFiles, path: Path, classes: Mapping[str, str], account: Account
) -> Iterator[tuple[str, VideoRow, list[Action]]]:
    """Yields place, row and usable actions of the first-person videos."""
    account.facts |= {CUT: 0, LEFT_OUT: 0}
    seen: set[str] = set()
    for where, row in files.csv_rows(path, VideoRow, "Charades-Ego test file"):
        if row.video in seen:
            raise DataError(f"{where}: video {row.video} is given twice")
        seen.add(row.video)
        if not row.is_first_person:
            account.drop("third-person video", where)
            continue
        actions = _actions(row, where, classes, account)
        if actions:
            yield where, row, actions
        else:
            account.drop("no action", where)


def _actions(row: VideoRow, where: str, classes: Mapping[str, str], account: Account) -> list[Action]:
    """Returns the actions of a video, cut to its length, without those of which nothing is left."""
    actions = []
    for text in filter(str.strip, row.actions.split(";")):
        parts = _ACTION.fullmatch(text.strip())
        if parts is None or parts[1] not in classes:
            raise DataError(f"{where}: action {text[:60]!a} is not `class start end` with a class of the list")
        action = Action(parts[1], float(parts[2]), float(parts[3]))
        if action.end_s > row.length:
            account.facts[CUT] += 1
            action = replace(action, end_s=row.length)
        if action.length_s > 0:
            actions.append(action)
        else:
            account.facts[LEFT_OUT] += 1
    return actions


def _questions(
    videos: Sequence[tuple[str, VideoRow, list[Action]]],
    classes: Mapping[str, str],
    options: CharadesEgoOptions,
    account: Account,
) -> Iterator[Question]:
    media = MediaFolder(options, LAYOUTS, account)
    clips = [_choose(row.video, actions, options) for _, row, actions in videos]
    happening = [
        {other.class_id for other in actions if other.overlaps(clip)}
        for clip, (_, _, actions) in zip(clips, videos, strict=True)
    ]
    distractors = _distractors(clips, happening, classes, options)
    lengths = ClipLengths()
    for (where, row, _), clip, within, wrong in zip(videos, clips, happening, distractors, strict=True):
        video = media.find(where, video=row.video)
        if video is not None:
            if clip.length_s < options.min_action_s:
                account.note("all actions are shorter than min_action_s", where)
            lengths.add(video, clip.length_s)
            true_texts = {classes[class_id] for class_id in within}
            yield _question(row.video, clip, video, wrong, true_texts, classes[clip.class_id], options)
    lengths.tell(account, TABLE, paper_mean_s=10.8)


def _choose(video: str, actions: Sequence[Action], options: CharadesEgoOptions) -> Action:
    """Draws the action that is asked about; it depends on seed and video alone."""
    long_enough = [action for action in actions if action.length_s >= options.min_action_s]
    return random.Random(f"{options.seed}/{TABLE}/action/{video}").choice(long_enough or list(actions))


def _distractors(
    clips: Sequence[Action],
    happening: Sequence[Collection[str]],
    classes: Mapping[str, str],
    options: CharadesEgoOptions,
) -> list[list[Neighbour]]:
    texts = list(classes.values())
    pool = open_pool(texts, options)
    if options.exclude_equivalent:
        truths = [classes[clip.class_id] for clip in clips]
        excluded = [{classes[class_id] for class_id in within} for within in happening]
        return pool.nearest(truths, NUM_DISTRACTORS, excluded=excluded)
    nearest = dict(zip(classes, pool.nearest(texts, NUM_DISTRACTORS), strict=True))
    return [nearest[clip.class_id] for clip in clips]


def _question(
    video_id: str,
    clip: Action,
    video: str,
    distractors: Sequence[Neighbour],
    true_texts: Collection[str],
    truth: str,
    options: CharadesEgoOptions,
) -> Question:
    question_id = f"{TABLE}/{video_id}"
    choices = arrange(truth, distractors, task=TABLE, question_id=question_id, seed=options.seed)
    return Question(
        id=question_id,
        task=TABLE,
        source=TABLE,
        split="test",
        video=video,
        start=clip.start_s,
        end=clip.end_s,
        question=QUESTION,
        options=choices.printed(options.option_style),
        answer_index=choices.answer_index,
        answer_text=truth,
        meta={
            "action_class": clip.class_id,
            "also_correct": choices.also_correct(true_texts.__contains__),
            "similarities": choices.similarities,
        },
    )


SOURCE = Source(
    name=TABLE,
    kind="egobench",
    options=CharadesEgoOptions,
    read=read,
    tables=(TABLE,),
    paper={TABLE: PaperCount(846, "Table 2")},
    finish=report_quality,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m data_builders.egobench.charades_ego`."""
    return run_source(SOURCE, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
