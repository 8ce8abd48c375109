"""VideoLLaMA2, the paper's base, asked as an Exo2Ego model without a mapper."""

from __future__ import annotations

from pathlib import Path

from eval.answerers.exo2ego import Exo2EgoAnswerer
from exo2ego.released_videollama2 import load_released_videollama2


def load_videollama2(folder: Path, *, num_frames: int | None, max_new_tokens: int) -> Exo2EgoAnswerer:
    """Loads a full release; raises `CheckpointError` for anything else."""
    model, processor = load_released_videollama2(folder, num_frames=num_frames)
    return Exo2EgoAnswerer(model, processor, form="chat", view="ego_only", max_new_tokens=max_new_tokens)
