"""How runs are called in reports, and which of them are controls."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from eval.reporting.run_folder import RunFolder

CONTROLS = {"blind": "blind", "shuffle_frames": "shuffled frames"}
"""Keys of a run that make it a control, and how it is called."""
NAMELESS = re.compile(r"checkpoints?|export(ed)?|final|last|latest|model|(checkpoint|epoch|step)[_-]?\d+")
"""Last parts of a path that do not say which model lies there."""

MAX_PATH_PARTS = 2
"""Of a folder, in a name that would else be given twice."""


def controls_of(folder: RunFolder) -> list[str]:
    """Returns why a run's numbers are a control and not a model's."""
    return [word for key, word in CONTROLS.items() if folder.setting(key, False)]


def titled(name: str, controls: Sequence[str]) -> str:
    """Returns a name with what kind of control it is, where the name does not say it."""
    return name + "".join(f" ({control})" for control in controls if control.split()[0] not in name)


def names_of(folders: Sequence[RunFolder]) -> list[str]:
    """Returns different names: of the models, of controls as such, where needed with the folder or a number."""
    models = [model_name(folder) for folder in folders]
    controls = [controls_of(folder) for folder in folders]
    names = [titled(model, found) for model, found in zip(models, controls, strict=True)]
    for depth in range(1, MAX_PATH_PARTS + 1):
        counts = Counter(names)
        places = ["/".join(folder.path.resolve().parts[-depth:]) for folder in folders]
        names = [
            name if counts[name] == 1 else titled(f"{model} in {place}", found)
            for name, model, place, found in zip(names, models, places, controls, strict=True)
        ]
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name} #{number}" for number, name in enumerate(names, 1)]


def model_name(folder: RunFolder) -> str:
    """Returns the last part of `model=` that says something, or else the folder's name."""
    family, _, source = str(folder.config.get("model", "")).rpartition(":")
    if family == "open_clip":
        architecture, _, checkpoint = source.partition("@")
        return f"{architecture}@{Path(checkpoint).stem}"
    parts = [part for part in source.split("/") if part]
    known = max((place for place, part in enumerate(parts) if not NAMELESS.fullmatch(part)), default=None)
    return "/".join(parts if known is None else parts[known:]) or folder.path.resolve().name
