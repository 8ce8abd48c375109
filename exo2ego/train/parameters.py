"""Freezing is a table: ordered patterns, first match wins, every parameter and every pattern must be matched."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch import nn

from exo2ego.errors import TrainingError

FreezeTable = Mapping[str, float | None]
"""Parameter name pattern -> learning rate relative to `optim.learning_rate`, or None for frozen."""

# what AdamW does not decay besides vectors (norms, biases): CLIP's class and position embeddings
UNDECAYED = ("*class_embedding*", "*position_embedding*", "*view_embedding*")


@dataclass(frozen=True)
class TableRow:
    """One printed row: a pattern, its learning rate (None = frozen) and what it covers."""

    pattern: str
    learning_rate: float | None
    num_tensors: int
    num_parameters: int


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


def apply_freeze_table(model: nn.Module, table: FreezeTable, learning_rate: float) -> list[TableRow]:
    """Sets `requires_grad` by the table and returns its rows with counts, in the table's order."""
    parameters = dict(model.named_parameters())
    matched = match_parameters(list(parameters), table)
    for name, parameter in parameters.items():
        parameter.requires_grad_(table[matched[name]] is not None)
    rows = []
    for pattern, multiplier in table.items():
        covered = [parameters[name] for name, found in matched.items() if found == pattern]
        rate = None if multiplier is None else multiplier * learning_rate
        rows.append(TableRow(pattern, rate, len(covered), sum(p.numel() for p in covered)))
    return rows


def set_precision(model: nn.Module, precision: str) -> None:
    """Keeps trained weights in fp32 and, with bf16, frozen ones in bf16: at 2e-5 bf16-only weights stop moving."""
    for parameter in model.parameters():
        frozen = not parameter.requires_grad
        parameter.data = parameter.data.to(torch.bfloat16 if frozen and precision == "bf16" else torch.float32)


def parameter_groups(
    model: nn.Module, table: FreezeTable, *, learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Returns AdamW groups of the trained parameters: weight decay on matrices only."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    matched = match_parameters([name for name, _ in model.named_parameters()], table)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        multiplier = table[matched[name]]
        assert multiplier is not None
        keeps = parameter.ndim < 2 or any(fnmatch.fnmatchcase(name, pattern) for pattern in UNDECAYED)
        key = (multiplier * learning_rate, 0.0 if keeps else weight_decay)
        groups.setdefault(key, []).append(parameter)
    return [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in groups.items()]


def render_rows(rows: Sequence[TableRow]) -> Table:
    """Returns the freeze table for the console."""
    table = Table("parameters", "learning rate", "tensors", "count", title="what trains", title_justify="left")
    for row in rows:
        rate = "frozen" if row.learning_rate is None else f"{row.learning_rate:g}"
        table.add_row(row.pattern, rate, str(row.num_tensors), human_count(row.num_parameters))
    trained = sum(row.num_parameters for row in rows if row.learning_rate is not None)
    table.add_row("total", "trained", "", human_count(trained))
    return table


def human_count(number: float) -> str:
    """Returns a number with a unit: 1.23 M."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return str(int(number))
