"""How many samples and exocentric views an epoch has: counted in the table, or assumed where it does not exist."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exo2ego.train.options import StageConfig
from exo2ego.train.preparation import needs_exo_beside, open_table, sample_order
from exo2ego.train.stage import Stage


@dataclass(frozen=True)
class SampleCounts:
    """What an epoch holds."""

    per_epoch: int | None
    """None where it is unknown."""
    mean_views: float
    """Exocentric views that the teacher sees per sample."""
    most_views: int
    note: str

    @property
    def traced_views(self) -> list[int]:
        """Returns the whole numbers around the mean, and the largest, which decides the memory."""
        return sorted({math.floor(self.mean_views), math.ceil(self.mean_views), self.most_views})


def count_samples(stage: Stage[Any]) -> SampleCounts:
    """Returns the counts of `data.table` if it exists, else those of the section `assumed`."""
    config: StageConfig = stage.config
    grouped = stage.pairing == "grouped" and needs_exo_beside(stage)
    table = Path(config.data.table)
    if table.is_file():
        records = open_table(table)
        order = sample_order(stage, records)
        note = f"{len(order):,} samples per epoch, counted in {table}"
        if not grouped:
            return SampleCounts(len(order), 1.0, 1, note)
        views = records.num_exo_videos()  # type: ignore[union-attr]
        return SampleCounts(len(order), float(views.mean()), int(views.max()), note)
    clips, pairs = config.assumed.num_clips, config.assumed.num_pairs
    number = pairs if stage.pairing == "all_pairs" else clips
    views = pairs / clips if grouped and pairs and clips else 1.0
    if number is None:
        key = "assumed.num_pairs" if stage.pairing == "all_pairs" else "assumed.num_clips"
        return SampleCounts(None, views, math.ceil(views), f"{table} does not exist: no steps and hours without {key}")
    note = f"{number:,} samples per epoch assumed (section `assumed`): {table} does not exist"
    if grouped:
        note += f"; {views:.2f} exo views per clip"
    return SampleCounts(number, views, math.ceil(views), note)
