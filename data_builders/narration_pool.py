"""Wrong options for a narrated clip, taken from the other narrations of a clip table."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from data_builders.narration_rewordings import Rewordings, Words, content_words
from data_builders.narration_similarity import SimilarTexts
from exo2ego.records import Clip

TRIES_PER_OPTION = 50
NUM_NEIGHBOURS = 200


class NarrationPool:
    """The narrations of a clip table, which of them can be asked about, and wrong options for each.

    A wrong option is told of no instant of the same take that overlaps the clip or lies within `min_distance_s` of it
    (another annotator may tell the same event there), and it contradicts the truth and the other wrong options: each
    of two has words that the other lacks, beyond articles, possessive pronouns and known rewordings.
    """

    def __init__(self, clips: Iterable[Clip], *, min_distance_s: float = 2.0, min_length_s: float = 0.2) -> None:
        self.min_distance_s = min_distance_s
        self.clips = [clip for clip in clips if content_words(clip.text)]
        self.words = [content_words(clip.text) for clip in self.clips]
        reasons = [_unfit(clip, min_length_s) for clip in self.clips]
        self.askable = [index for index, reason in enumerate(reasons) if reason is None]
        self.unfit = Counter(reason for reason in reasons if reason is not None)
        self._of_take: dict[str, list[int]] = defaultdict(list)
        self._first_with: dict[Words, int] = {}
        for index, clip in enumerate(self.clips):
            self._of_take[clip.take_uid].append(index)
            self._first_with.setdefault(self.words[index], index)

    @cached_property
    def rewordings(self) -> Rewordings:
        """What two annotators of this table say for the same event."""
        return Rewordings(self.clips, max_distance_s=self.min_distance_s)

    @cached_property
    def _similar(self) -> SimilarTexts:
        return SimilarTexts(self.words)

    def counts(self) -> dict[str, Any]:
        """Returns how many clips there are, and why some cannot be asked about."""
        return {"clips": len(self.clips), "askable_clips": len(self.askable), "unfit_clips": dict(self.unfit)}

    def from_other_takes(self, index: int, count: int, rng: random.Random) -> list[int] | None:
        """Returns `count` clips of other takes drawn at random as wrong options, None where there are too few."""
        others = (rng.randrange(len(self.clips)) for _ in range(TRIES_PER_OPTION * count))
        take = self.clips[index].take_uid
        return self._choose(index, (other for other in others if self.clips[other].take_uid != take), count)

    def from_same_take(self, index: int, count: int, rng: random.Random) -> list[int] | None:
        """Returns `count` clips of the same take drawn at random as wrong options, None where there are too few."""
        others = list(self._of_take[self.clips[index].take_uid])
        rng.shuffle(others)
        return self._choose(index, others, count)

    def most_similar(self, index: int, count: int, rng: random.Random) -> list[int] | None:
        """Returns `count` clips whose texts share most words with the truth, None where there are too few.

        Were every wrong option a neighbour of the truth, the truth could be found without the video as the option most
        like all others. So the options are the neighbours of one text, and the truth is that text in one of
        `count + 1` cases only; otherwise it is one of its neighbours.
        """
        neighbours = self._choose(index, self._neighbours(index, rng), count)
        if neighbours is None or rng.randrange(count + 1) == 0:
            return neighbours
        centre = rng.choice(neighbours)
        return self._choose(index, (centre, *self._neighbours(centre, rng)), count)

    def _neighbours(self, index: int, rng: random.Random) -> list[int]:
        return [self._first_with[words] for words in self._similar.nearest(self.words[index], NUM_NEIGHBOURS, rng)]

    def _choose(self, index: int, candidates: Iterable[int], count: int) -> list[int] | None:
        """Returns the first `count` candidates that are wrong for the clip and mean different things."""
        near = self._told_near(index)
        chosen: list[int] = []
        for other in candidates:
            words = self.words[other]
            taken = (self.words[kept] for kept in (index, *chosen))
            if words in near or any(self.rewordings.may_mean_the_same(words, kept) for kept in taken):
                continue
            chosen.append(other)
            if len(chosen) == count:
                return chosen
        return None

    def _told_near(self, index: int) -> set[Words]:
        """Returns what is told of the same take at about the same time."""
        clip = self.clips[index]
        return {self.words[other] for other in self._of_take[clip.take_uid] if self._is_near(clip, self.clips[other])}

    def _is_near(self, clip: Clip, other: Clip) -> bool:
        overlap = clip.start_s < other.end_s and other.start_s < clip.end_s
        return overlap or abs(clip.timestamp_s - other.timestamp_s) < self.min_distance_s


def _unfit(clip: Clip, min_length_s: float) -> str | None:
    """Returns why a clip cannot be asked about: what it shows must be certain and visible to the wearer's camera."""
    if clip.end_s <= clip.start_s or clip.end_s - clip.start_s < min_length_s:
        return "shorter than the minimum"
    if clip.unsure:
        return "annotator unsure"
    return "not visible in the ego video" if clip.ego_visible is False else None
