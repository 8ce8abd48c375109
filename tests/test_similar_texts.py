"""The join of near-duplicate texts finds every pair and no other, in blocks of any size."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.similar_texts import Similar, similar_texts, words_of

VOCABULARY = ("the", "a", "cup", "red", "lifts", "puts", "down", "on", "table")
WORDS = st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=14)
TEXTS = st.lists(WORDS, min_size=0, max_size=12)


def jaccard(one: list[str], other: list[str]) -> tuple[int, int]:
    ours, theirs = Counter(one), Counter(other)
    return (ours & theirs).total(), (ours | theirs).total()


def by_comparing_all(first: list[list[str]], second: list[list[str]], threshold: tuple[int, int]) -> list[Similar]:
    found = []
    for place, text in enumerate(second):
        matches = []
        for nearest, other in enumerate(first):
            shared, together = jaccard(text, other)
            if shared * threshold[1] >= together * threshold[0]:
                matches.append((-shared / together, nearest))
        if matches:
            similarity, nearest = min(matches)
            found.append(Similar(place, nearest, -similarity, len(matches)))
    return found


@given(TEXTS, TEXTS, st.sampled_from([(4, 5), (1, 2), (9, 10), (1, 1)]), st.sampled_from([1, 5, 1 << 20]))
def test_the_join_is_exact(
    first: list[list[str]], second: list[list[str]], threshold: tuple[int, int], pairs_per_block: int
) -> None:
    found = list(similar_texts(first, second, threshold, pairs_per_block))
    assert found == by_comparing_all(first, second, threshold)


def test_a_pair_exactly_at_the_threshold_is_found() -> None:
    nine = list("abcdefghi")
    assert [found.similarity for found in similar_texts([nine], [[*nine[:-1], "x"]])] == [0.8]  # 8 of 10
    assert not list(similar_texts([nine[:8]], [[*nine[:7], "x"]]))  # 7 of 9


def test_repeated_words_count() -> None:
    assert not list(similar_texts([["cup"] * 5], [["cup"] * 3]))
    assert [found.similarity for found in similar_texts([["cup"] * 5], [["cup"] * 4])] == [0.8]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#C C lifts the cup.", ["c", "c", "lifts", "the", "cup"]),
        ("", []),
        ("Müller's 3 Tassen", ["müller", "s", "3", "tassen"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert words_of(text) == words
