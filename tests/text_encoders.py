"""Text encoders that need no model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy
from numpy.typing import NDArray


class WordEncoder:
    """Embeds a text as the sum of a random direction per word: texts that share words are similar.

    Counts the texts it embedded; `fail_after` texts it raises, as a kill would stop it.
    """

    def __init__(self, width: int = 32, name: str = "words", fail_after: int | None = None) -> None:
        self.name = name
        self.num_embedded = 0
        self._width = width
        self._fail_after = fail_after

    def encode(self, texts: Sequence[str]) -> NDArray[numpy.float32]:
        self.num_embedded += len(texts)
        if self._fail_after is not None and self.num_embedded > self._fail_after:
            raise KeyboardInterrupt
        rows = numpy.stack(
            [sum((self._direction(word) for word in text.split()), numpy.zeros(self._width)) for text in texts]
        )
        rows = rows + 1e-3 * self._direction("")
        return (rows / numpy.linalg.norm(rows, axis=1, keepdims=True)).astype(numpy.float32)

    def _direction(self, word: str) -> NDArray[numpy.float64]:
        seed = int.from_bytes(hashlib.sha256(f"{self.name} {word}".encode()).digest()[:8], "little")
        return numpy.random.default_rng(seed).standard_normal(self._width)


class TableEncoder:
    """Looks vectors up, [D] by text, and makes them of length 1."""

    name = "table"

    def __init__(self, vectors: Mapping[str, Sequence[float]]) -> None:
        self._vectors = vectors

    def encode(self, texts: Sequence[str]) -> NDArray[numpy.float32]:
        rows = numpy.array([self._vectors[text] for text in texts], numpy.float64)
        return (rows / numpy.linalg.norm(rows, axis=1, keepdims=True)).astype(numpy.float32)
