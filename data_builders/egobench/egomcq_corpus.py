"""The questions of EgoMCQ as they are published, in little memory: every text once, questions as numbers of texts."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, FiniteFloat

from data_builders.source import Account
from exo2ego.data.prompting import normal_form
from exo2ego.errors import DataError
from exo2ego.raw.files import RawFiles
from exo2ego.raw.rows import FileStem, RawRow, Text

NUM_CHOICES = 5
INTER, INTRA = 1, 2
"""What `types` most likely means; EgoVLP's own metric names them the other way round, so that it decides nothing."""
SEVERAL = -1
_KEY = re.compile(r"\w{1,40}")


class ClipRow(RawRow):
    """A clip and its narration, as in EgoClip."""

    video: FileStem = Field(validation_alias="video_uid")
    start_s: FiniteFloat = Field(validation_alias="clip_start")
    end_s: FiniteFloat = Field(validation_alias="clip_end")
    duration_s: FiniteFloat | None = Field(default=None, validation_alias="video_dur")
    text: Text = Field(validation_alias="clip_text")


class QuestionRow(RawRow):
    """An entry of `egomcq.json`."""

    query: ClipRow
    choices: dict[str, ClipRow]
    answer: int
    types: int | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """One question: the clip that is shown, and the numbers of its texts."""

    key: str
    video: int
    start_s: float
    end_s: float
    truth: int
    others: tuple[int, ...]
    """The other original texts that differ from the truth and from each other."""
    is_intra: bool
    oddities: tuple[str, ...]
    """What the account notes of the question where it is kept."""


class Corpus:
    """All questions of the file, its distinct texts, and which videos they are told of."""

    def __init__(self, rewrite: Callable[[str], str]) -> None:
        self._rewrite = rewrite
        self.questions: list[Asked] = []
        self.texts: list[str] = []
        self.videos: list[str] = []
        self.texts_of_video: list[set[int]] = []
        self._number_of_form: dict[str, int] = {}
        self._number_of_video: dict[str, int] = {}
        self._only_video = array("i")
        self._instants: list[array[float]] = []
        self._told: list[array[int]] = []

    def add(self, where: str, key: str, row: QuestionRow, account: Account) -> None:
        """Takes in one entry; its odd sides are kept with it. Raises `DataError` for one that is no such question."""
        clips = [row.choices.get(str(number)) for number in range(NUM_CHOICES)]
        choices = [clip for clip in clips if clip is not None]
        if len(row.choices) != NUM_CHOICES or len(choices) != NUM_CHOICES:
            raise DataError(f"{where}: choices: expected `0` to `{NUM_CHOICES - 1}`, got {', '.join(row.choices)[:80]}")
        if not 0 <= row.answer < NUM_CHOICES:
            raise DataError(f"{where}: answer: expected 0 to {NUM_CHOICES - 1}, got {row.answer}")
        numbers = [self._take_in(clip) for clip in choices]
        truth = choices[row.answer]
        video_end_s = math.inf if truth.duration_s is None else truth.duration_s
        start_s, end_s = max(truth.start_s, 0.0), min(truth.end_s, video_end_s)
        if truth.end_s < truth.start_s:
            return account.drop("the clip ends before it starts", where)
        if end_s < start_s:
            return account.drop("the clip lies outside its video", where)
        is_intra = len({clip.video for clip in choices}) == 1
        answer = numbers[row.answer]
        others = tuple(number for number in dict.fromkeys(numbers) if number != answer)
        odd = {
            "the query is not the clip of the answer, which counts": (row.query.video, row.query.text)
            != (truth.video, truth.text),
            "the clip ends after its video and is cut": truth.end_s > video_end_s,
            "a clip without length, which shows one frame": end_s == start_s,
            "`types` disagrees with the videos of the choices, which count": row.types is not None
            and row.types != (INTRA if is_intra else INTER),
            "original texts coincide; one more is added for each": len(others) < NUM_CHOICES - 1,
        }
        oddities = tuple(reason for reason, is_so in odd.items() if is_so)
        video = self._number_of_video[truth.video]
        self.questions.append(Asked(key, video, start_s, end_s, answer, others, is_intra, oddities))
        return None

    def _take_in(self, clip: ClipRow) -> int:
        """Returns the number of a clip's text."""
        text = self._rewrite(clip.text)
        number = self._number_of_form.setdefault(normal_form(text), len(self.texts))
        video = self._number_of_video.setdefault(clip.video, len(self.videos))
        if video == len(self.videos):
            self.videos.append(clip.video)
            self.texts_of_video.append(set())
            self._instants.append(array("d"))
            self._told.append(array("i"))
        if number == len(self.texts):
            self.texts.append(text)
            self._only_video.append(video)
        elif self._only_video[number] != video:
            self._only_video[number] = SEVERAL
        self.texts_of_video[video].add(number)
        self._instants[video].append((clip.start_s + clip.end_s) / 2)
        self._told[video].append(number)
        return number

    def only_in(self, video: int) -> list[str]:
        """Returns the texts that no other video has."""
        return [self.texts[number] for number in self.texts_of_video[video] if self._only_video[number] == video]

    def told_within(self, question: Asked) -> set[str]:
        """Returns the texts told of an instant within the question's clip; that of a narration is its clip's middle."""
        video = question.video
        told = zip(self._instants[video], self._told[video], strict=True)
        return {self.texts[number] for instant, number in told if question.start_s <= instant <= question.end_s}


def read_corpus(files: RawFiles, path: Path, rewrite: Callable[[str], str], account: Account) -> Corpus:
    """Reads the whole file once, entry by entry; raises `DataError`."""
    corpus = Corpus(rewrite)
    for where, key, row in files.json_members(path, QuestionRow, "EgoMCQ"):
        if not _KEY.fullmatch(key):
            raise DataError(f"{where}: expected a number as the name of the entry")
        corpus.add(where, key, row, account)
    return corpus
