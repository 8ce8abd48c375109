"""Distractors: the nearest texts, by brute force and by the rules that every option must keep."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_builders.distractors import search
from data_builders.distractors.pool import Neighbour, TextPool
from exo2ego.data.prompting import normal_form
from tests.text_encoders import TableEncoder, WordEncoder

WORDS = ("open", "close", "the", "Door", "door.", "fridge", "cup", "a", " ")
# Few directions, so that similarities tie and vectors repeat; none is zero.
COORDINATES = st.lists(st.integers(-2, 2), min_size=3, max_size=3).filter(any)
TEXTS = st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join)


def brute_force(
    pool: Collection[str],
    vectors: Mapping[str, Sequence[float]],
    truth: str,
    count: int,
    excluded: Collection[str],
    allowed: Collection[str] | None,
) -> list[Neighbour]:
    """The definition, pair by pair: by (-similarity, text), one text per normal form."""
    encoder = TableEncoder(vectors)
    forms = {normal_form(text): text for text in sorted(pool, reverse=True)}
    banned = {normal_form(truth), "", *map(normal_form, excluded)}
    may = forms if allowed is None else set(map(normal_form, allowed))
    of_truth = encoder.encode([normal_form(truth)])[0].astype(numpy.float64)
    found = [
        Neighbour(text, round(float(of_truth @ encoder.encode([form])[0].astype(numpy.float64)), search.DECIMALS))
        for form, text in forms.items()
        if form in may and form not in banned
    ]
    return sorted(found, key=lambda one: (-one.similarity, one.text))[:count]


@given(st.data())
def test_neighbours_are_those_of_brute_force(data: st.DataObject) -> None:
    pool = data.draw(st.lists(TEXTS, max_size=40))
    truths = data.draw(st.lists(TEXTS, min_size=1, max_size=6))
    count = data.draw(st.integers(1, 12))
    excluded = data.draw(st.lists(st.lists(TEXTS, max_size=5), min_size=len(truths), max_size=len(truths)))
    allowed = data.draw(st.none() | st.lists(TEXTS, max_size=20))
    forms = sorted({normal_form(text) for text in [*pool, *truths]})
    vectors = dict(zip(forms, data.draw(st.lists(COORDINATES, min_size=len(forms), max_size=len(forms))), strict=True))

    found = TextPool(pool, TableEncoder(vectors)).nearest(truths, count, excluded=excluded, allowed=allowed)

    expected = [
        brute_force(pool, vectors, truth, count, banned, allowed)
        for truth, banned in zip(truths, excluded, strict=True)
    ]
    assert [[text for text, _ in one] for one in found] == [[text for text, _ in one] for one in expected]
    for one, other in zip(found, expected, strict=True):
        numpy.testing.assert_allclose([value for _, value in one], [value for _, value in other], atol=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_blocks_and_groups_change_nothing(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    rng = numpy.random.default_rng(seed)
    vectors = rng.standard_normal((500, 24)).astype(numpy.float32)
    vectors /= numpy.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[rng.integers(0, 500, 200)] = vectors[rng.integers(0, 500, 200)]
    columns = numpy.sort(rng.choice(500, 430, replace=False))
    excluded = [rng.integers(0, 500, rng.integers(0, 60)) for _ in vectors]

    exact = (vectors.astype(numpy.float64) @ vectors.T.astype(numpy.float64)).round(search.DECIMALS)
    for query, banned in enumerate(excluded):
        exact[query, banned] = -numpy.inf
    exact[:, numpy.setdiff1d(numpy.arange(500), columns)] = -numpy.inf
    expected = numpy.argsort(-exact, axis=1, kind="stable")[:, :9]

    none = numpy.full(500, -1)
    for queries, of_block, group, pending in ((7, 64, 4, 50), (500, 500, 32, 1 << 17), (100, 33, 1, 3)):
        monkeypatch.setattr(search, "QUERIES_PER_BLOCK", queries)
        monkeypatch.setattr(search, "COLUMNS_PER_BLOCK", of_block)
        monkeypatch.setattr(search, "COLUMNS_PER_GROUP", group)
        monkeypatch.setattr(search, "MAX_PENDING", pending)
        nearest = search.NearestSearch(vectors, columns, 9)
        found = [
            nearest.find(
                vectors[start : start + queries], none[start : start + queries], excluded[start : start + queries]
            )[0]
            for start in range(0, 500, queries)
        ]
        assert (numpy.concatenate(found) == expected).all()


def test_identical_vectors_tie_wherever_they_stand() -> None:
    """A matrix product may give the same pair another last bit at another place; the order must not show it."""
    rng = numpy.random.default_rng(0)
    vectors = rng.standard_normal((3, 384))
    texts = [f"text {number:04}" for number in range(1500)]
    pool = TextPool(texts, TableEncoder({text: vectors[number % 2] for number, text in enumerate(texts)}))
    truth = TableEncoder({text: vectors[number % 2] for number, text in enumerate(texts)} | {"truth": vectors[2]})
    pool._encoder = truth
    (found,) = pool.nearest(["truth"], 1500)
    nearer = 0 if found[0].text == "text 0000" else 1
    assert [one.text for one in found] == [*texts[nearer::2], *texts[1 - nearer :: 2]]
    assert len({one.similarity for one in found}) == 2


@given(st.lists(TEXTS, min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_the_order_of_texts_and_truths_changes_nothing(texts: list[str], rng: random.Random) -> None:
    once = dict(zip(texts, TextPool(texts, WordEncoder()).nearest(texts, 4), strict=True))
    shuffled = rng.sample(texts, len(texts))
    again = dict(zip(shuffled, TextPool(shuffled, WordEncoder()).nearest(shuffled, 4), strict=True))
    assert once == again


@given(st.lists(TEXTS, max_size=30), st.lists(TEXTS, min_size=1, max_size=5), st.integers(1, 9))
def test_no_option_repeats_the_truth_or_another(texts: list[str], truths: list[str], count: int) -> None:
    pool = TextPool(texts, WordEncoder())
    for truth, found in zip(truths, pool.nearest(truths, count), strict=True):
        forms = [normal_form(one.text) for one in found]
        assert len({normal_form(truth), "", *forms}) == len(forms) + (2 if normal_form(truth) else 1)
        assert {one.text for one in found} <= set(texts)
        others = set(map(normal_form, texts)) - {normal_form(truth), ""}
        assert len(found) == min(count, len(others))


def test_questions_can_share_what_is_excluded() -> None:
    pool = TextPool(["open door", "close door", "open fridge", "close fridge"], WordEncoder())
    shared = {"Close door."}
    found = pool.nearest(["open door"] * 2, 4, excluded=[shared, set()])
    assert "close door" not in {one.text for one in found[0]}
    assert "close door" in {one.text for one in found[1]}
    assert pool.nearest(["open door"], 4, excluded=[shared]) == [found[0]]


@pytest.mark.parametrize(("count", "excluded"), [(0, None), (4, [])])
def test_a_wrong_call_is_refused(count: int, excluded: list[list[str]] | None) -> None:
    with pytest.raises(ValueError, match="positive count and one collection per truth"):
        TextPool(["a", "b"], WordEncoder()).nearest(["a"], count, excluded=excluded)


def test_an_empty_pool_has_no_neighbours() -> None:
    assert TextPool([" ", "."], WordEncoder()).nearest(["a", "a"], 4) == [[], []]


@given(st.lists(TEXTS.filter(normal_form), min_size=2, max_size=8, unique_by=normal_form))
def test_the_similarity_of_a_pair_is_that_of_its_neighbour(texts: list[str]) -> None:
    """Also for a text that is not in the pool: options of a source stand beside those that were found."""
    inside, outside = TextPool(texts, WordEncoder()), TextPool(["cup"], WordEncoder())
    for neighbour in inside.nearest(texts[:1], 9)[0]:
        pair = (texts[0], neighbour.text)
        assert inside.similarities([pair]) == outside.similarities([pair]) == [neighbour.similarity]
