"""Wrong options for a narrated clip, taken from the other narrations of a clip table."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy
from numpy.typing import NDArray

from exo2ego.data.prompting import normal_form
from exo2ego.records import Clip

WORD = re.compile(r"[\w']+")
SAMPLING_TRIES = 50
NUM_NEIGHBOURS = 200

Words = frozenset[str]
Alternation = frozenset[Words]
"""The words that one of two texts has alone and the words that the other one has alone."""


class NarrationPool:
    """The narrations of a clip table, which of them can be asked about, and wrong options for each.

    A wrong option never equals the truth in normal form, never occurs in the same take within `min_distance_s` of the
    clip or overlapping it (another annotator may tell the same event there), and never differs from the truth only by
    words that two annotators used for one event (`alternations`).
    """

    def __init__(self, clips: Iterable[Clip], *, min_distance_s: float = 2.0, min_length_s: float = 0.2) -> None:
        self.min_distance_s = min_distance_s
        self.clips = [clip for clip in clips if normal_form(clip.text)]
        reasons = [_unfit(clip, min_length_s) for clip in self.clips]
        self.askable = [index for index, reason in enumerate(reasons) if reason is None]
        self.unfit = Counter(reason for reason in reasons if reason is not None)
        self.forms = [normal_form(clip.text) for clip in self.clips]
        self.words: dict[str, Words] = {form: frozenset(WORD.findall(form)) for form in self.forms}
        self._of_take: dict[str, list[int]] = defaultdict(list)
        for index, clip in enumerate(self.clips):
            self._of_take[clip.take_uid].append(index)

    def counts(self) -> dict[str, Any]:
        """Returns how many clips there are, and why some cannot be asked about."""
        return {"clips": len(self.clips), "askable_clips": len(self.askable), "unfit_clips": dict(self.unfit)}

    def from_other_takes(self, index: int, count: int, rng: random.Random) -> list[int] | None:
        """Returns `count` clips of other takes drawn at random as wrong options, None where there are too few."""
        others = (rng.randrange(len(self.clips)) for _ in range(SAMPLING_TRIES * count))
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
        if rng.randrange(count + 1) == 0:
            return self._choose(index, self._neighbours(index, rng), count)
        centres = self._choose(index, self._neighbours(index, rng), count)
        if centres is None:
            return None
        centre = rng.choice(centres)
        return self._choose(index, (centre, *self._neighbours(centre, rng)), count)

    def _choose(self, index: int, candidates: Iterable[int], count: int) -> list[int] | None:
        """Returns the first `count` candidates that are wrong for the clip and mean different things."""
        near = self._near(index)
        chosen: list[int] = []
        for other in candidates:
            form = self.forms[other]
            if form in near or any(self._may_mean_the_same(form, self.forms[kept]) for kept in (index, *chosen)):
                continue
            chosen.append(other)
            if len(chosen) == count:
                return chosen
        return None

    def _near(self, index: int) -> set[str]:
        """Returns the texts of the same take that may tell the same event."""
        clip = self.clips[index]
        return {self.forms[other] for other in self._of_take[clip.take_uid] if self._is_near(clip, self.clips[other])}

    def _is_near(self, clip: Clip, other: Clip) -> bool:
        overlap = clip.start_s < other.end_s and other.start_s < clip.end_s
        return overlap or abs(clip.timestamp_s - other.timestamp_s) < self.min_distance_s

    def _may_mean_the_same(self, form: str, other: str) -> bool:
        words, other_words = self.words[form], self.words[other]
        return words == other_words or _alternation(words, other_words) in self.alternations

    @cached_property
    def alternations(self) -> set[Alternation]:
        """Returns the word differences seen at least twice between two annotators' narrations of one event.

        Two narrations tell one event when each is the other annotator's nearest in time, at most `min_distance_s`
        apart. On events that the annotators tell differently this excludes a few true distractors, never the reverse.
        """
        seen: Counter[Alternation] = Counter()
        for members in self._of_take.values():
            for first, second in self._parallel(members):
                words, other_words = self.words[self.forms[first]], self.words[self.forms[second]]
                if words != other_words:
                    seen[_alternation(words, other_words)] += 1
        return {alternation for alternation, count in seen.items() if count > 1}

    def _parallel(self, members: Sequence[int]) -> Iterator[tuple[int, int]]:
        by_annotator: dict[str, list[int]] = defaultdict(list)
        for index in members:
            by_annotator[self.clips[index].annotator].append(index)
        annotators = sorted(by_annotator)
        for number, annotator in enumerate(annotators):
            for other in annotators[number + 1 :]:
                yield from self._mutually_nearest(by_annotator[annotator], by_annotator[other])

    def _mutually_nearest(self, first: Sequence[int], second: Sequence[int]) -> Iterator[tuple[int, int]]:
        times_s = numpy.array([self.clips[index].timestamp_s for index in first])
        other_times_s = numpy.array([self.clips[index].timestamp_s for index in second])
        distances_s = numpy.abs(times_s[:, None] - other_times_s[None, :])
        nearest, nearest_back = distances_s.argmin(1), distances_s.argmin(0)
        for row, column in enumerate(nearest):
            if nearest_back[column] == row and distances_s[row, column] <= self.min_distance_s:
                yield first[row], second[column]

    def _neighbours(self, index: int, rng: random.Random) -> list[int]:
        """Returns clips by descending share of common words (Jaccard), one per text.

        Among texts equally like, frequent ones come early as often as they are told: were they not, the truth would
        stand out as the most frequent option.
        """
        own = self.words[self.forms[index]]
        shared = numpy.zeros(len(self._distinct))
        for word in own:
            shared[self._having[word]] += 1
        similarity = shared / (len(own) + self._num_words - shared)
        uniform = numpy.random.default_rng(rng.getrandbits(64)).random(len(similarity))
        waiting = -numpy.log1p(-uniform) / self._frequency
        order = numpy.lexsort((waiting, -similarity))[: NUM_NEIGHBOURS + 1]
        return [self._distinct[place] for place in order if self._distinct[place] != self._first[self.forms[index]]]

    @cached_property
    def _first(self) -> dict[str, int]:
        """The first clip with each text."""
        first: dict[str, int] = {}
        for index, form in enumerate(self.forms):
            first.setdefault(form, index)
        return first

    @cached_property
    def _distinct(self) -> list[int]:
        return list(self._first.values())

    @cached_property
    def _num_words(self) -> NDArray[numpy.int64]:
        return numpy.array([len(self.words[form]) for form in self._first])

    @cached_property
    def _frequency(self) -> NDArray[numpy.int64]:
        counts = Counter(self.forms)
        return numpy.array([counts[form] for form in self._first])

    @cached_property
    def _having(self) -> dict[str, NDArray[numpy.int64]]:
        """For each word, the places in `_distinct` of the texts that have it."""
        places: dict[str, list[int]] = defaultdict(list)
        for place, index in enumerate(self._distinct):
            for word in self.words[self.forms[index]]:
                places[word].append(place)
        return {word: numpy.array(found) for word, found in places.items()}


def _unfit(clip: Clip, min_length_s: float) -> str | None:
    """Returns why a clip cannot be asked about: what it shows must be certain and visible to the wearer's camera."""
    if clip.end_s - clip.start_s < max(min_length_s, 1e-9):
        return "shorter than the minimum"
    if clip.unsure:
        return "annotator unsure"
    return "not visible in the ego video" if clip.ego_visible is False else None


def _alternation(words: Words, other: Words) -> Alternation:
    return frozenset((words - other, other - words))
