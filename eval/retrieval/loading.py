"""From `--model FAMILY:SOURCE` to a dual encoder; importing costs no torch."""

from __future__ import annotations

from collections.abc import Callable

from eval.retrieval.encoders import DualEncoder
from exo2ego.errors import EvaluationError


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
