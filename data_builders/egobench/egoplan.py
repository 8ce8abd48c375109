"""EgoPlan-Val: which action comes next towards a goal, four options, about videos of EPIC-KITCHENS-100 and Ego4D.

Source: github.com/ChenYi99/EgoPlan. Licence: code BSD-3; the data inherits those of EPIC-KITCHENS-100 (CC BY-NC) and
Ego4D. Version: `EgoPlan_validation.json` (its README counts 3,355 questions; the labels of the test file are hidden).

A question shows the video from the first action done so far (`task_progress_metadata[0].start_frame`) to the current
observation, and its last frame must be that observation: `observation_s`. Where no action was done yet the authors show
the observation alone, which here is a span of one instant. Options keep the order of the source: its leaderboard takes
letters.

Traps: frame numbers of EPIC-KITCHENS-100 do not count the frames of the video, see `exo2ego/raw/epic_kitchens.py`;
its extracted frames are numbered from 1, so that number N, which the authors open, is second (N - 1) / rate there;
the list of actions may be empty; two choices may be the same text, and the official script compares texts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from data_builders import ego4d
from data_builders.distractors.quality import report_quality
from data_builders.egobench.clip_lengths import ClipLengths
from data_builders.egobench.options import EgoBenchOptions, has_repeated_options, option_text, repeated_truths
from data_builders.media import MediaFolder
from data_builders.paper_counts import PaperCount
from data_builders.source import Account, Source, Tables, run_source
from exo2ego.data.prompting import normal_form
from exo2ego.errors import ConfigError, DataError
from exo2ego.raw import epic_kitchens
from exo2ego.raw.files import RawFiles
from exo2ego.raw.rows import FileStem, OptionalText, RawRow, Text, frame_to_seconds
from exo2ego.records import Question

CUT_LAYOUTS = ("{sample}.mp4", "videos/{sample}.mp4")
FrameNumber = Annotated[int, Field(ge=0, le=10**9)]


class EgoPlanOptions(EgoBenchOptions):
    """Options of `python -m data_builders.egobench.egoplan`."""

    epic_videos: Path | None = None
    """Folder of the videos (or extracted frames) of EPIC-KITCHENS-100, where it is not `videos`."""
    ego4d_videos: Path | None = None
    """Folder of the videos of Ego4D, where it is not `videos`."""
    cut_clips: bool = False
    """`videos` holds one clip per question, `<sample_id>.mp4` (as lmms-eval has them), instead of the full videos."""


class ActionRow(RawRow):
    """An item of `task_progress_metadata`: an action that was done before the question is asked."""

    narration_text: OptionalText = ""
    start_frame: FrameNumber
    stop_frame: FrameNumber


class QuestionRow(RawRow):
    """A row of `EgoPlan_validation.json`."""

    sample_id: Annotated[FileStem, BeforeValidator(lambda value: str(value) if type(value) is int else value)]
    video_source: Literal["EpicKitchens", "Ego4D"]
    video_id: FileStem
    task_goal: OptionalText = ""
    question: Text
    choice_a: Text
    choice_b: Text
    choice_c: Text
    choice_d: Text
    golden_choice_idx: Literal["A", "B", "C", "D"]
    answer: Text
    current_observation_frame: FrameNumber
    task_progress_metadata: list[ActionRow]

    @property
    def choices(self) -> list[str]:
        """The four choices in the order of the source."""
        return [self.choice_a, self.choice_b, self.choice_c, self.choice_d]

    @property
    def answer_index(self) -> int:
        """The place of the golden choice."""
        return "ABCD".index(self.golden_choice_idx)


def read(options: EgoPlanOptions, account: Account) -> Tables[Question]:
    """Returns the questions in the order of the file."""
    files = RawFiles(options.root, "EgoPlan")
    path = files.find("EgoPlan_validation.json", "data/EgoPlan_validation.json", what="validation questions")
    account.inputs = files.hashes()
    clips = _Clips(options, account)

    def questions() -> Iterator[Question]:
        lengths = ClipLengths()
        for where, row in files.json_rows(path, QuestionRow, "validation questions"):
            if normal_form(row.choices[row.answer_index]) != normal_form(row.answer):
                account.drop("the golden choice is not the answer", where)
                continue
            clip = clips.find(where, row)
            if clip is None:
                continue
            if has_repeated_options(row.choices):
                account.note("two options are the same text", where)
            lengths.add(f"{row.video_source}/{row.video_id}", clip.length_s)
            yield _question(row, clip, options)
        lengths.tell(account, "egoplan", paper_mean_s=668.0)

    return {"egoplan": questions()}


@dataclass(frozen=True)
class _Clip:
    """What a question shows."""

    video: str
    length_s: float
    start_s: float | None = None
    observation_s: float | None = None
    """Also its end."""
    frame_rate: float | None = None


def _question(row: QuestionRow, clip: _Clip, options: EgoPlanOptions) -> Question:
    others = repeated_truths(row.choices, row.answer_index)
    return Question(
        id=f"egoplan/{row.sample_id}",
        task="egoplan",
        source="egoplan",
        split="validation",
        video=clip.video,
        start=clip.start_s,
        end=clip.observation_s,
        observation=clip.observation_s,
        frame_rate=clip.frame_rate,
        question=row.question,
        options=[option_text(text, options.option_style) for text in row.choices],
        answer_index=row.answer_index,
        answer_text=row.answer,
        meta={
            "video_uid": row.video_id,
            "video_source": row.video_source,
            "task_goal": row.task_goal,
            "progress": [action.narration_text for action in row.task_progress_metadata],
            **({"same_as_truth": others} if others else {}),
        },
    )


class _Clips:
    """Finds what a question shows: a video or a folder of frames, its span, and the instant of the observation."""

    def __init__(self, options: EgoPlanOptions, account: Account) -> None:
        self._cut = options.cut_clips
        self._account = account
        folders = {"EpicKitchens": options.epic_videos, "Ego4D": options.ego4d_videos}
        layouts: dict[str, Sequence[str]] = {
            "EpicKitchens": epic_kitchens.VIDEO_LAYOUTS,
            "Ego4D": ego4d.VIDEO_LAYOUTS,
        }
        if self._cut:
            if any(folders.values()):
                raise ConfigError("epic_videos, ego4d_videos: not read with cut_clips; give videos, their one folder")
            folders, layouts = dict.fromkeys(folders), dict.fromkeys(layouts, CUT_LAYOUTS)
        if options.media_root is None and len({folder or options.videos_folder for folder in folders.values()}) > 1:
            raise ConfigError("media_root: the videos lie in two folders; give a folder above both")
        self._media = {
            name: MediaFolder(options.model_copy(update={"videos": folder or options.videos}), layouts[name], account)
            for name, folder in folders.items()
        }

    def find(self, where: str, row: QuestionRow) -> _Clip | None:
        """Returns what a question shows; None: its video is missing, and the row left out for it."""
        is_epic = row.video_source == "EpicKitchens"
        try:
            frame_rate = epic_kitchens.frame_rate_of(row.video_id) if is_epic else ego4d.FRAME_RATE
            participant = epic_kitchens.participant_of(row.video_id) if is_epic else ""
        except ValueError as error:
            raise DataError(f"{where}: video_id: {error}") from error
        video = self._media[row.video_source].find(
            where, sample=row.sample_id, video=row.video_id, participant=participant
        )
        if video is None:
            return None
        is_folder = is_epic and not self._cut and not PurePosixPath(video).suffix
        first = epic_kitchens.FIRST_PICTURE if is_folder else 0
        observation_s = frame_to_seconds(max(row.current_observation_frame - first, 0), frame_rate)
        start_s = self._start(where, row, first, frame_rate, observation_s)
        length_s = observation_s - start_s
        if self._cut:  # where exactly they were cut is not said, so no instant of the file is known
            return _Clip(video, length_s)
        return _Clip(video, length_s, start_s, observation_s, frame_rate if is_folder else None)

    def _start(self, where: str, row: QuestionRow, first: int, frame_rate: float, observation_s: float) -> float:
        """Returns the start of the first action, or the instant of the observation where there is none before it."""
        if not row.task_progress_metadata:
            self._account.note("no action was done yet: shows the observation alone", where)
            return observation_s
        start_s = frame_to_seconds(max(row.task_progress_metadata[0].start_frame - first, 0), frame_rate)
        if start_s > observation_s:
            self._account.note("the first action starts after the observation: shows the observation alone", where)
            return observation_s
        return start_s


SOURCE = Source(
    name="egoplan",
    kind="egobench",
    options=EgoPlanOptions,
    read=read,
    tables=("egoplan",),
    paper={
        "egoplan": PaperCount(
            3_339, "Table 2", reason="EgoPlan's README counts 3,355; why the paper has 16 fewer is not known"
        )
    },
    finish=report_quality,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m data_builders.egobench.egoplan`."""
    return run_source(SOURCE, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
