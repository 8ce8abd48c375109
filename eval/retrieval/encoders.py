"""Dual encoders: a text tower and a video tower whose outputs are compared by their angle; importing costs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy
from numpy.typing import NDArray

Embeddings = NDArray[numpy.float32]


class DualEncoder(Protocol):
    """A model that puts texts and videos into one space, as rows of length 1."""

    @property
    def identity(self) -> str:
        """Returns a hash that changes when the embeddings could: weights, preprocessing, tokenizer."""

    @property
    def num_frames(self) -> int:
        """Returns the number of frames that it wants of a clip."""

    def encode_text(self, texts: Sequence[str]) -> Embeddings:
        """Returns the embeddings [N, D] of texts."""

    def encode_video(self, frames: NDArray[numpy.uint8]) -> Embeddings:
        """Returns the embedding [D] of the frames [T, H, W, 3] of a clip."""
