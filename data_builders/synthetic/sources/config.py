"""The settings of the generated raw datasets."""

from __future__ import annotations

from pydantic import Field

from exo2ego.config import Config


class SourcesConfig(Config):
    """Everything that decides the annotations, beside the corpus they are made of."""

    seed: int = Field(default=0, ge=0)
    """Decides which events become rows, and which wrong options they get."""
    training_rows: int = Field(default=120, ge=12)
    """Rows per source for training (EgoIT and EgoClip), where the training takes have as many events."""
    benchmark_rows: int = Field(default=60, ge=12)
    """Questions per file of a benchmark source, where the val takes have as many events."""
