"""The freeze table: first match wins, nothing is left over on either side, and what follows from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from exo2ego.errors import CheckpointError, ConfigError, TrainingError
from exo2ego.train.checkpoint import find_checkpoint, load_optimizer_state
from exo2ego.train.options import GroupOptions
from exo2ego.train.parameters import apply_freeze_table, match_parameters, parameter_groups, render_rows, set_precision
from tests.tiny_corpus import TinyCorpus
from tests.tiny_runs import run


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


TABLE = {"tower.*": 0.1, "norm.*": 1.0, "head.*": None}
GROUPS = {
    "tower.projection.*": GroupOptions(multiplier=3, weight_decay=0.5),
    "tower.*": GroupOptions(multiplier=2),  # first match wins: the class embedding only
}


def test_groups_have_rates_and_weight_decay_of_their_own() -> None:
    model = Small()
    rows = apply_freeze_table(model, TABLE, 1e-3, GROUPS)
    assert [(row.pattern, row.group, row.learning_rate, row.weight_decay, row.num_parameters) for row in rows] == [
        ("tower.*", "tower.projection.*", pytest.approx(3e-4), 0.5, 20),
        ("tower.*", "tower.*", pytest.approx(2e-4), None, 4),
        ("norm.*", None, 1e-3, None, 8),
        ("head.*", None, None, None, 8),
    ]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    made = parameter_groups(model, TABLE, learning_rate=1e-3, weight_decay=0.02, groups=GROUPS)
    assert sorted((round(g["lr"], 9), g["weight_decay"], [names[id(p)] for p in g["params"]]) for g in made) == [
        (2e-4, 0.0, ["tower.class_embedding.weight"]),
        (3e-4, 0.0, ["tower.projection.bias"]),
        (3e-4, 0.5, ["tower.projection.weight"]),
        (1e-3, 0.0, ["norm.weight", "norm.bias"]),
    ]
    cells = [list(column.cells) for column in render_rows(rows).columns]
    assert cells[0][0] == "  of these tower.projection.*, weight decay 0.5"
    assert cells[1][0] == "0.0003"


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            {"tower.projektion.*": GroupOptions()},
            r"`tower.projektion.\*` matches no .*nearest name is `tower.projection",
        ),
        ({"head.*": GroupOptions()}, "matches no parameter that this stage trains"),
        ({"tower.*": GroupOptions(), "tower.projection.*": GroupOptions()}, "or only ones of an earlier group"),
    ],
)
def test_a_group_of_nothing_is_an_error(groups: dict[str, GroupOptions], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        apply_freeze_table(Small(), TABLE, 1e-3, groups)


def test_groups_are_recorded_and_bound_on_resume(corpus: TinyCorpus, tmp_path: Path) -> None:
    group = "optim.groups={model.connector.*: {multiplier: 0.5, weight_decay: 0.1}}"
    settings = ("max_steps=2", "checkpoint.every_steps=1", "optim.warmup_fraction=0", "optim.learning_rate=1e-3")
    assert run("init_ego", corpus, tmp_path / "run", *settings, group) == 0
    checkpoint = find_checkpoint(tmp_path / "run" / "checkpoints" / "step_00000001")
    rows = {(row["pattern"], row["group"]): row["learning_rate"] for row in checkpoint.record["freeze_table"]}
    assert rows["model.connector.*", "model.connector.*"] == pytest.approx(5e-4)
    made = load_optimizer_state(checkpoint)["optimizer"]["param_groups"]
    assert {(g["initial_lr"], g["weight_decay"]) for g in made} == {(1e-3, 0.0), (1e-3, 0.02), (5e-4, 0.0), (5e-4, 0.1)}
    where = str(checkpoint.path)
    assert run("init_ego", corpus, tmp_path / "again", *settings, group, resume=where) == 0
    other = group.replace("0.5", "0.25")
    with pytest.raises(CheckpointError, match=r"optim.groups.model.connector.\*.multiplier: 0.5 then, 0.25 now"):
        run("init_ego", corpus, tmp_path / "other", *settings, other, resume=where)
