"""Which narrations may tell the same: learnt from events that two annotators told in their own words."""

from __future__ import annotations

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy

from exo2ego.records import Clip

WORD = re.compile(r"[\w']+")
FUNCTION_WORDS = frozenset(("a", "an", "the", "his", "her", "their", "its", "my"))
MIN_SHARE = 0.1
"""A rewording counts when it makes up this share of the uses of its rarest word; rarer ones are slips."""

Words = frozenset[str]


def content_words(text: str) -> Words:
    """Returns the lower-case words of a text without articles and possessive pronouns."""
    return frozenset(map(sys.intern, WORD.findall(text.lower()))) - FUNCTION_WORDS


class Rewordings:
    """For words that one annotator used, the words that another one used in their place for the same event."""

    def __init__(self, clips: Iterable[Clip], *, max_distance_s: float) -> None:
        seen: Counter[tuple[Words, Words]] = Counter()
        uses: Counter[str] = Counter()
        for first, second in _told_twice(clips, max_distance_s):
            words, other_words = content_words(first.text), content_words(second.text)
            uses.update(words | other_words)
            own, others = words - other_words, other_words - words
            if own and others:
                seen[own, others] += 1
                seen[others, own] += 1
        self.of: dict[Words, set[Words]] = defaultdict(set)
        for (own, others), count in seen.items():
            if count >= MIN_SHARE * min(uses[word] for word in own | others):
                self.of[own].add(others)

    def may_mean_the_same(self, words: Words, other_words: Words) -> bool:
        """Says whether one text adds nothing that contradicts the other, known rewordings apart."""
        own, others = words - other_words, other_words - words
        return (
            not own
            or not others
            or any(reworded <= others for reworded in self.of.get(own, ()))
            or any(reworded <= own for reworded in self.of.get(others, ()))
        )


def _told_twice(clips: Iterable[Clip], max_distance_s: float) -> Iterator[tuple[Clip, Clip]]:
    """Yields pairs of narrations of a take that are each other's nearest in time among two annotators' narrations."""
    takes: dict[str, dict[str, list[Clip]]] = defaultdict(lambda: defaultdict(list))
    for clip in clips:
        takes[clip.take_uid][clip.annotator].append(clip)
    for by_annotator in takes.values():
        annotators = sorted(by_annotator)
        for number, annotator in enumerate(annotators):
            for other in annotators[number + 1 :]:
                yield from _mutually_nearest(by_annotator[annotator], by_annotator[other], max_distance_s)


def _mutually_nearest(
    first: Sequence[Clip], second: Sequence[Clip], max_distance_s: float
) -> Iterator[tuple[Clip, Clip]]:
    times_s = numpy.array([clip.timestamp_s for clip in first])
    other_times_s = numpy.array([clip.timestamp_s for clip in second])
    distances_s = numpy.abs(times_s[:, None] - other_times_s[None, :])
    nearest, nearest_back = distances_s.argmin(1), distances_s.argmin(0)
    for row, column in enumerate(nearest):
        if nearest_back[column] == row and distances_s[row, column] <= max_distance_s:
            yield first[row], second[column]
