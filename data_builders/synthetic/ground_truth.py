"""Reading back what really happens in a generated corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_builders.synthetic.world import Event
from exo2ego.errors import DataError
from exo2ego.storage import read_json

SIDECAR = "synthetic.json"


def read_settings(root: Path) -> dict[str, Any]:
    """Returns the settings of the corpus in `root`, finished or not; none where there is no corpus."""
    if not (root / SIDECAR).exists():
        return {}
    settings: dict[str, Any] = read_json(root / SIDECAR, "record of a generated corpus").get("config", {})
    return settings


def read_sidecar(root: Path) -> dict[str, Any]:
    """Reads synthetic.json; raises `DataError` if it is missing or the corpus is unfinished."""
    content: dict[str, Any] = read_json(root / SIDECAR, "record of a generated corpus")
    if "takes" not in content:
        raise DataError(
            f"{root}: the corpus is not finished; run `python -m data_builders.synthetic --out {root}` again"
        )
    return content


def read_ground_truth(root: Path) -> dict[str, list[Event]]:
    """Returns the true events of every take (all splits, in time order) by take uid; raises `DataError`."""
    takes = read_sidecar(root)["takes"]
    return {uid: [Event.model_validate(row) for row in take["events"]] for uid, take in takes.items()}
