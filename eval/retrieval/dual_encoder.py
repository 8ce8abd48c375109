"""Dual encoders: a text tower and a video tower whose outputs are compared by their angle; importing costs no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy
from numpy.typing import NDArray

from exo2ego.errors import EvaluationError

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


def _open_clip(source: str, num_frames: int | None) -> DualEncoder:
    from eval.retrieval.open_clip_encoder import OpenClipEncoder

    return OpenClipEncoder.load(source, num_frames)


DUAL_ENCODERS: dict[str, Callable[[str, int | None], DualEncoder]] = {"open_clip": _open_clip}
"""By the word before the colon of `--model FAMILY:SOURCE`."""


def load_dual_encoder(model: str, num_frames: int | None) -> DualEncoder:
    """Loads `FAMILY:SOURCE`; raises `EvaluationError` for what is no dual encoder."""
    family, separator, source = model.partition(":")
    if not separator or family not in DUAL_ENCODERS:
        raise EvaluationError(f"model {model}: expected FAMILY:SOURCE of a dual encoder: {', '.join(DUAL_ENCODERS)}")
    return DUAL_ENCODERS[family](source, num_frames)
