"""Freezing is a table: ordered patterns, first match wins, every parameter and every pattern must be matched."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch import nn

from exo2ego.errors import ConfigError, TrainingError
from exo2ego.train.options import GroupOptions

FreezeTable = Mapping[str, float | None]
"""Parameter name pattern -> learning rate relative to `optim.learning_rate`, or None for frozen."""

Groups = Mapping[str, GroupOptions]
"""Parameter name pattern -> what these parameters do differently (`optim.groups`)."""

# what AdamW does not decay besides vectors (norms, biases): CLIP's class and position embeddings
UNDECAYED = ("*class_embedding*", "*position_embedding*", "*view_embedding*")


@dataclass(frozen=True)
class TableRow:
    """One printed row: a pattern, its learning rate (None = frozen) and what it covers.

    Parameters of the pattern that `optim.groups` treats differently have a row of their own, with that group's pattern.
    """

    pattern: str
    learning_rate: float | None
    num_tensors: int
    num_parameters: int
    group: str | None = None
    weight_decay: float | None = None
    """Of the group's matrices; None = `optim.weight_decay`."""


def match_parameters(names: Sequence[str], table: FreezeTable) -> dict[str, str]:
    """Returns the pattern of every parameter; raises `TrainingError` for unmatched parameters and unused patterns."""
    matched: dict[str, str] = {}
    for name in names:
        pattern = first_match(name, table)
        if pattern is not None:
            matched[name] = pattern
    orphans = [name for name in names if name not in matched]
    unused = [pattern for pattern in table if pattern not in set(matched.values())]
    if orphans or unused:
        raise TrainingError(
            f"the freeze table does not fit the model: {len(orphans)} parameters match no pattern {orphans[:5]}, "
            f"{len(unused)} patterns match no parameter {unused}; a stage must name every module it has"
        )
    return matched


def first_match(name: str, patterns: Iterable[str]) -> str | None:
    """Returns the first pattern that a parameter's name matches."""
    return next((pattern for pattern in patterns if fnmatch.fnmatchcase(name, pattern)), None)


def apply_freeze_table(
    model: nn.Module, table: FreezeTable, learning_rate: float, groups: Groups | None = None
) -> list[TableRow]:
    """Sets `requires_grad` by the table and returns its rows with counts, in the table's order.

    Raises `ConfigError` when a pattern of `groups` matches no trained parameter.
    """
    parameters = dict(model.named_parameters())
    matched = match_parameters(list(parameters), table)
    for name, parameter in parameters.items():
        parameter.requires_grad_(table[matched[name]] is not None)
    group_of = match_groups([name for name, parameter in parameters.items() if parameter.requires_grad], groups or {})
    rows = []
    for pattern, multiplier in table.items():
        covered = [name for name, found in matched.items() if found == pattern]
        for group in (None, *(groups or {})):
            members = [parameters[name] for name in covered if group_of.get(name) == group]
            if not members:
                continue
            options = GroupOptions() if group is None else (groups or {})[group]
            rate = None if multiplier is None else multiplier * options.multiplier * learning_rate
            count = sum(parameter.numel() for parameter in members)
            rows.append(TableRow(pattern, rate, len(members), count, group, options.weight_decay))
    return rows


def match_groups(trained: Sequence[str], groups: Groups) -> dict[str, str]:
    """Returns the group's pattern of every trained parameter that has one; raises `ConfigError` for an idle pattern."""
    matched = {name: pattern for name in trained if (pattern := first_match(name, groups)) is not None}
    for pattern in groups:
        if pattern not in matched.values():
            candidates = [*trained, *{f"{name.rpartition('.')[0]}.*" for name in trained}]
            nearest = difflib.get_close_matches(pattern, candidates, n=1, cutoff=0.0)
            raise ConfigError(
                f"optim.groups: `{pattern}` matches no parameter that this stage trains, or only ones of an earlier "
                f"group; the nearest name is `{nearest[0] if nearest else 'none: nothing trains'}`"
            )
    return matched


def set_precision(model: nn.Module, precision: str) -> None:
    """Keeps trained weights in fp32 and, with bf16, frozen ones in bf16: at 2e-5 bf16-only weights stop moving."""
    for parameter in model.parameters():
        frozen = not parameter.requires_grad
        parameter.data = parameter.data.to(torch.bfloat16 if frozen and precision == "bf16" else torch.float32)


def parameter_groups(
    model: nn.Module, table: FreezeTable, *, learning_rate: float, weight_decay: float, groups: Groups | None = None
) -> list[dict[str, Any]]:
    """Returns AdamW groups of the trained parameters: weight decay on matrices only."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    matched = match_parameters([name for name, _ in model.named_parameters()], table)
    group_of = match_groups(list(trained), groups or {})
    made: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        multiplier = table[matched[name]]
        assert multiplier is not None
        options = (groups or {})[group_of[name]] if name in group_of else GroupOptions()
        decay = weight_decay if options.weight_decay is None else options.weight_decay
        keeps = parameter.ndim < 2 or any(fnmatch.fnmatchcase(name, pattern) for pattern in UNDECAYED)
        key = (multiplier * options.multiplier * learning_rate, 0.0 if keeps else decay)
        made.setdefault(key, []).append(parameter)
    return [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in made.items()]


def render_rows(rows: Sequence[TableRow]) -> Table:
    """Returns the freeze table for the console."""
    table = Table("parameters", "learning rate", "tensors", "count", title="what trains", title_justify="left")
    for row in rows:
        rate = "frozen" if row.learning_rate is None else f"{row.learning_rate:g}"
        decay = "" if row.weight_decay is None else f", weight decay {row.weight_decay:g}"
        name = row.pattern if row.group is None else f"  of these {row.group}{decay}"
        table.add_row(name, rate, str(row.num_tensors), human_count(row.num_parameters))
    trained = sum(row.num_parameters for row in rows if row.learning_rate is not None)
    table.add_row("total", "trained", "", human_count(trained))
    return table


def human_count(number: float) -> str:
    """Returns a number with a unit: 1.23 M."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return str(int(number))
