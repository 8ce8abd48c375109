"""The texts that share most words with a given one."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy

from data_builders.narration_rewordings import Words

NUM_LEVELS = 256


class SimilarTexts:
    """Finds neighbours among texts, given as word sets, by the share of common words (Jaccard)."""

    def __init__(self, texts: Sequence[Words]) -> None:
        frequency = Counter(texts)
        self._texts = list(frequency)
        self._frequency = numpy.array(list(frequency.values()))
        self._num_words = numpy.array([len(words) for words in frequency], numpy.float32)
        places: dict[str, list[int]] = defaultdict(list)
        for place, words in enumerate(frequency):
            for word in words:
                places[word].append(place)
        self._having = {word: numpy.array(found, numpy.int32) for word, found in places.items()}

    def nearest(self, text: Words, num_texts: int, rng: random.Random) -> list[Words]:
        """Returns the `num_texts` nearest other texts, best first.

        Among texts equally near, the frequent ones come first as often as they occur: otherwise a text taken from the
        same table would stand out beside its neighbours as the most frequent one.
        """
        shared = numpy.zeros(len(self._texts), numpy.uint16)
        for word in text:
            shared[self._having[word]] += 1
        similarity = shared / (len(text) + self._num_words - shared)
        # a histogram finds the best few of many; numpy.partition is slow where most values are equal
        level = (similarity * (NUM_LEVELS - 1)).astype(numpy.uint8)
        num_at_least = numpy.bincount(level, minlength=NUM_LEVELS)[::-1].cumsum()[::-1]
        places = numpy.flatnonzero(level >= max(0, (num_at_least > num_texts).sum() - 1))
        uniform = numpy.random.default_rng(rng.getrandbits(64)).random(len(places))
        waiting = -numpy.log1p(-uniform) / self._frequency[places]
        order = numpy.lexsort((waiting, -similarity[places]))
        nearest = [self._texts[place] for place in places[order[: num_texts + 1]]]
        return [other for other in nearest if other != text][:num_texts]
