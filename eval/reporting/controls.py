"""How much is vision: a model against itself on grey pictures, and on frames in another order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eval.reporting.comparisons import Comparison, comparable_pairs, compare_pairs
from eval.reporting.run_folder import RunFolder
from eval.reporting.run_names import controls_of

SAME_MODEL = ("model", "view", "form", "prompt", "likelihood_prompt", "open_prompt", "num_frames")
"""Settings in which a control and its model are equal."""


@dataclass(frozen=True)
class ControlComparison:
    """A model minus its control on the questions that both answered."""

    run: str
    control: str
    kind: str
    """blind or shuffled frames."""
    rows: list[Comparison]


def compare_controls(folders: Sequence[RunFolder], names: Sequence[str]) -> tuple[list[ControlComparison], list[str]]:
    """Returns every control beside its model, and the names of controls whose model is not among the folders.

    A run that is blind and shuffled is compared as blind.
    """
    found, alone = [], []
    models = [(folder, name) for folder, name in zip(folders, names, strict=True) if not controls_of(folder)]
    for control, control_name in zip(folders, names, strict=True):
        kinds = controls_of(control)
        if not kinds:
            continue
        model = next(((folder, name) for folder, name in models if _is_same_model(folder, control)), None)
        pairs = comparable_pairs(model[0], control).pairs if model else {}
        if model is None or not pairs:
            alone.append(control_name)
            continue
        found.append(ControlComparison(model[1], control_name, kinds[0], compare_pairs(pairs)))
    return found, alone


def _is_same_model(first: RunFolder, second: RunFolder) -> bool:
    return all(first.setting(name) == second.setting(name) for name in SAME_MODEL)
