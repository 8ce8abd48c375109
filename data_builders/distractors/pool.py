"""The texts that wrong options are drawn from, and the nearest of them to a truth."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy

from data_builders.distractors.embeddings import Vectors, embed
from data_builders.distractors.encoder import TextEncoder
from data_builders.distractors.search import DECIMALS, QUERIES_PER_BLOCK, NearestSearch, Numbers
from exo2ego.data.prompting import normal_form


class Neighbour(NamedTuple):
    """A text of the pool and its cosine similarity to a truth, to six decimals."""

    text: str
    similarity: float


class TextPool:
    """Distinct texts with their embeddings; of texts with the same normal form, the first in alphabetical order stands.

    What is embedded is the normal form. `cache` is a folder that keeps embeddings, for any number of pools and
    encoders. Raises `DataError` for a damaged file in it.
    """

    def __init__(self, texts: Iterable[str], encoder: TextEncoder, cache: Path | None = None) -> None:
        self._encoder = encoder
        self._cache = cache
        text_of: dict[str, str] = {}
        for text in sorted(set(texts)):
            text_of.setdefault(normal_form(text), text)
        text_of.pop("", None)
        self.texts = list(text_of.values())
        """In alphabetical order: ties are broken by it."""
        self._column_of = {form: column for column, form in enumerate(text_of)}
        self._vectors = embed(list(text_of), encoder, cache)

    def __len__(self) -> int:
        return len(self.texts)

    def nearest(
        self,
        truths: Sequence[str],
        count: int,
        *,
        excluded: Sequence[Collection[str]] | None = None,
        allowed: Collection[str] | None = None,
    ) -> list[list[Neighbour]]:
        """Returns for each truth the `count` most similar texts of the pool, by (-similarity, text).

        Their normal forms differ from the truth's and from those of `excluded[i]`; with `allowed` only these texts of
        the pool take part. Fewer are returned where the pool has fewer. Questions that share a collection of excluded
        texts should share the object: it is looked up once.
        """
        if count < 1 or (excluded is not None and len(excluded) != len(truths)):
            raise ValueError(f"expected a positive count and one collection per truth, got {count} and other lengths")
        form_of = {truth: normal_form(truth) for truth in set(truths)}
        asked: list[tuple[str, int | None]] = [(form_of[truth], None) for truth in truths]
        columns_of: dict[int | None, Numbers] = {}
        if excluded is not None:
            asked = [(form, id(texts)) for (form, _), texts in zip(asked, excluded, strict=True)]
            distinct = {id(texts): texts for texts in excluded}
            columns_of = {key: self._columns(texts) for key, texts in distinct.items()}
        columns = numpy.arange(len(self)) if allowed is None else self._columns(allowed)
        searches = list(dict.fromkeys(asked)) if len(columns) else []
        outside = self._embed_outside(form for form, _ in searches)
        answers: dict[tuple[str, int | None], list[Neighbour]] = {}
        search = NearestSearch(self._vectors, columns, count)
        for start in range(0, len(searches), QUERIES_PER_BLOCK):
            block = searches[start : start + QUERIES_PER_BLOCK]
            own = numpy.array([self._column_of.get(form, -1) for form, _ in block])
            queries = self._vectors[own]
            for place in numpy.flatnonzero(own < 0):
                queries[place] = outside[block[place][0]]
            found, similarities = search.find(queries, own, [columns_of[key] for _, key in block if columns_of])
            for one, *row in zip(block, found.tolist(), similarities.tolist(), strict=True):
                answers[one] = [
                    Neighbour(self.texts[column], similarity)
                    for column, similarity in zip(*row, strict=True)
                    if column >= 0
                ]
        return [list(answers.get(one, ())) for one in asked]

    def similarities(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Returns the cosine similarity of each pair of texts, to six decimals; they need not be in the pool."""
        forms = [(normal_form(first), normal_form(second)) for first, second in pairs]
        outside = self._embed_outside(form for pair in forms for form in pair)
        vectors = ((self._vector(first, outside), self._vector(second, outside)) for first, second in forms)
        # in float64 as the search compares them
        return [round(float(first.astype("f8") @ second.astype("f8")), DECIMALS) for first, second in vectors]

    def _columns(self, texts: Collection[str]) -> Numbers:
        """Returns the columns of those texts that are in the pool, sorted."""
        columns = {self._column_of.get(text, -1) for text in map(normal_form, texts)} - {-1}
        return numpy.array(sorted(columns), numpy.int64)

    def _embed_outside(self, forms: Iterable[str]) -> Mapping[str, Vectors]:
        """Returns the vectors of the truths that are not in the pool."""
        outside = sorted({form for form in forms if form not in self._column_of})
        return dict(zip(outside, embed(outside, self._encoder, self._cache), strict=True)) if outside else {}

    def _vector(self, form: str, outside: Mapping[str, Vectors]) -> Vectors:
        column = self._column_of.get(form)
        return outside[form] if column is None else self._vectors[column]
