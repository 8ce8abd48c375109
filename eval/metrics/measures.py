"""One measured number, whatever it measures."""

from __future__ import annotations

from dataclasses import dataclass

from exo2ego.intervals import Interval


@dataclass(frozen=True)
class Measure:
    """One number of a task, as a fraction."""

    name: str
    value: float
    interval: Interval | None
    """95 %, clustered by video; None where there is no formula that holds."""
    chance: float | None
    """What guessing gives; None where it is not known in closed form."""
    count: int
    """Questions it is over."""
