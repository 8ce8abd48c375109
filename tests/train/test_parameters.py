"""The freeze table: first match wins, nothing is left over on either side, and what follows from it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from exo2ego.errors import TrainingError
from exo2ego.train.parameters import apply_freeze_table, match_parameters, parameter_groups, render_rows, set_precision


class Small(nn.Module):
    """A tower with CLIP's names, a head, and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.ModuleDict({"class_embedding": nn.Embedding(1, 4), "projection": nn.Linear(4, 4)})
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 2, bias=False)


def test_the_first_match_wins() -> None:
    matched = match_parameters(["a.lora_A", "a.weight"], {"a.*lora_*": 1.0, "a.*": None})
    assert matched == {"a.lora_A": "a.*lora_*", "a.weight": "a.*"}


def test_an_uncovered_parameter_is_an_error() -> None:
    with pytest.raises(TrainingError, match=r"2 parameters match no pattern \['norm.weight', 'norm.bias'\]"):
        apply_freeze_table(Small(), {"tower.*": 1.0, "head.*": None}, 1e-3)


def test_an_unused_pattern_is_an_error() -> None:
    table = {"tower.*": 1.0, "norm.*": 1.0, "head.*": None, "heads.*": 1.0}
    with pytest.raises(TrainingError, match=r"1 patterns match no parameter \['heads.\*'\]"):
        apply_freeze_table(Small(), table, 1e-3)


def test_rows_say_what_was_done() -> None:
    model = Small()
    rows = apply_freeze_table(model, {"tower.*": 0.1, "norm.*": None, "head.*": 1.0}, 1e-3)
    assert [(row.pattern, row.learning_rate, row.num_tensors, row.num_parameters) for row in rows] == [
        ("tower.*", pytest.approx(1e-4), 3, 24),
        ("norm.*", None, 2, 8),
        ("head.*", 1e-3, 1, 8),
    ]
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == [
        "norm.weight",
        "norm.bias",
    ]
    assert render_rows(rows).row_count == 4


def test_weight_decay_is_on_matrices_only() -> None:
    model = Small()
    table = {"tower.*": 0.1, "norm.*": 1.0, "head.*": None}
    apply_freeze_table(model, table, 1e-3)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, table, learning_rate=1e-3, weight_decay=0.02)
    assert {(group["lr"], group["weight_decay"]): [names[id(p)] for p in group["params"]] for group in groups} == {
        (1e-4, 0.0): ["tower.class_embedding.weight", "tower.projection.bias"],
        (1e-4, 0.02): ["tower.projection.weight"],
        (1e-3, 0.0): ["norm.weight", "norm.bias"],
    }


def test_trained_weights_stay_float32() -> None:
    model = Small().bfloat16()
    apply_freeze_table(model, {"tower.*": 1.0, "*": None}, 1e-3)
    set_precision(model, "bf16")
    assert model.tower["projection"].weight.dtype == torch.float32
    assert model.head.weight.dtype == model.norm.weight.dtype == torch.bfloat16
    set_precision(model, "fp32")
    assert model.head.weight.dtype == torch.float32
