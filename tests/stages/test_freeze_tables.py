"""Who trains in which stage (Exo2Ego §4.1-4.4, Tables 7 and 8): by the table, and by the gradients."""

from __future__ import annotations

import re

import pytest
import torch

from exo2ego.errors import ConfigError
from exo2ego.model.modeling import Exo2EgoForConditionalGeneration
from tests.tiny_corpus import TinyCorpus
from tests.tiny_runs import batch_of, make_stage, prepare_orphan

EGO, EXO, CONNECTOR, EXO_CONNECTOR = "vision_tower", "teacher_tower", "connector", "connector_exo"
F, G, FUSION, LORA, LANGUAGE_MODEL = "mapper_f", "mapper_g", "fusion", "lora", "language_model"
STAGE_2 = {EGO, CONNECTOR, F, G}
STAGE_3 = {EGO, CONNECTOR, F, LORA}
PER_BRANCH = "model.connector.sharing=per_branch"
CASES = [
    pytest.param("init_ego", [], {EGO, CONNECTOR}, {LANGUAGE_MODEL}, id="init_ego"),
    pytest.param("init_ego", ["train_connector=false"], {EGO}, {CONNECTOR, LANGUAGE_MODEL}, id="init_ego, A2"),
    pytest.param("init_ego", ["model.mapper.kind=none"], {EGO, CONNECTOR}, {LANGUAGE_MODEL}, id="single tower"),
    pytest.param("stage1", [], {EXO, CONNECTOR}, {EGO, LANGUAGE_MODEL}, id="stage1"),
    pytest.param(
        "stage1", [PER_BRANCH], {EXO, EXO_CONNECTOR}, {EGO, CONNECTOR, LANGUAGE_MODEL}, id="stage1, two connectors"
    ),
    pytest.param("stage2", [], STAGE_2, {EXO, LANGUAGE_MODEL}, id="stage2"),
    pytest.param("stage2", ["pairing=grouped"], STAGE_2, {EXO, LANGUAGE_MODEL}, id="stage2, grouped"),
    pytest.param("stage2", [PER_BRANCH], STAGE_2, {EXO, EXO_CONNECTOR, LANGUAGE_MODEL}, id="stage2, two connectors"),
    pytest.param("stage2", ["loss.kl.weight=0"], STAGE_2, {EXO, LANGUAGE_MODEL}, id="no KL"),
    pytest.param("stage2", ["loss.cycle.directions='off'"], STAGE_2 - {G}, {EXO, LANGUAGE_MODEL}, id="no CCL"),
    pytest.param("stage2", ["loss.cycle.weight=0"], STAGE_2 - {G}, {EXO, LANGUAGE_MODEL}, id="no CCL by weight"),
    pytest.param("stage2", ["loss.cycle.directions=forward"], STAGE_2, {EXO, LANGUAGE_MODEL}, id="forward cycle"),
    pytest.param("stage2", ["model.mapper.kind=fc"], STAGE_2, {EXO, LANGUAGE_MODEL}, id="FC mappers"),
    pytest.param("stage2", ["train_teacher=true"], STAGE_2 | {EXO}, {LANGUAGE_MODEL}, id="teacher trains"),
    pytest.param(
        "stage2", ["model.view_embedding=true"], STAGE_2 | {FUSION}, {EXO, LANGUAGE_MODEL}, id="view embedding"
    ),
    pytest.param("stage3", [], STAGE_3, {LANGUAGE_MODEL}, id="stage3"),
    pytest.param("stage3", ["lora=null"], STAGE_3 - {LORA}, {LANGUAGE_MODEL}, id="no LoRA"),
    pytest.param("stage3", ["train_ego_tower=false"], STAGE_3 - {EGO}, {EGO, LANGUAGE_MODEL}, id="ego tower frozen"),
    pytest.param("stage3", ["model.mapper.kind=none"], STAGE_3 - {F}, {LANGUAGE_MODEL}, id="single tower, stage3"),
]


def part(name: str) -> str:
    """The part of the model that a parameter belongs to."""
    if "lora_" in name:
        return LORA
    return LANGUAGE_MODEL if name.startswith("lm_head") else name.split(".")[1]


def parts_where(model: Exo2EgoForConditionalGeneration, *, trained: bool) -> set[str]:
    return {part(name) for name, parameter in model.named_parameters() if parameter.requires_grad == trained}


@pytest.mark.parametrize(("name", "overrides", "trained", "frozen"), CASES)
def test_exactly_the_table_gets_gradients(
    corpus: TinyCorpus, name: str, overrides: list[str], trained: set[str], frozen: set[str]
) -> None:
    prepared = prepare_orphan(name, corpus, *overrides)
    model = prepared.model
    assert parts_where(model, trained=True) == trained
    assert parts_where(model, trained=False) == frozen
    terms = prepared.stage.losses(model, batch_of(prepared, [0, 1]))
    torch.stack([term.weight * term.total for term in terms.values()]).sum().backward()
    parameters = dict(model.named_parameters())
    assert [name for name, parameter in parameters.items() if parameter.requires_grad and parameter.grad is None] == []
    assert [name for name, p in parameters.items() if not p.requires_grad and p.grad is not None] == []
    moved = {part(name) for name, p in parameters.items() if p.grad is not None and bool(p.grad.abs().sum() > 0)}
    assert moved == trained


def test_the_frozen_teacher_gives_constants_in_eval_mode(corpus: TinyCorpus) -> None:
    prepared = prepare_orphan("stage2", corpus)
    seen = []
    teacher = prepared.model.model.teacher_tower
    assert teacher is not None
    teacher.register_forward_hook(lambda module, inputs, output: seen.append((module.training, output.requires_grad)))
    prepared.stage.losses(prepared.model, batch_of(prepared, [0]))
    assert seen == [(False, False)]
    assert prepared.model.model.mapper_f is not None
    assert prepared.model.model.mapper_f.training


def test_dropout_of_the_adapters_is_active(corpus: TinyCorpus) -> None:
    prepared = prepare_orphan("stage3", corpus, "lora.dropout=0.5")
    for name, parameter in prepared.model.named_parameters():
        if "lora_B" in name:  # zero at the start: no dropout would be seen through it
            torch.nn.init.normal_(parameter)
    batch = batch_of(prepared, [0])
    first, second = (prepared.stage.losses(prepared.model, batch)["text"].total.item() for _ in range(2))
    assert first != second


def test_the_towers_have_their_own_rate(corpus: TinyCorpus) -> None:
    prepared = prepare_orphan("stage2", corpus, "optim.tower_multiplier=0.1", "optim.learning_rate=0.001")
    rates = {row.pattern: row.learning_rate for row in prepared.rows}
    assert rates["model.vision_tower.*"] == pytest.approx(1e-4)
    assert rates["model.mapper_f.*"] == pytest.approx(1e-3)


def test_a_teacher_that_nothing_would_train_is_refused(corpus: TinyCorpus) -> None:
    with pytest.raises(ConfigError, match=re.escape("train_teacher: only the KL divergence reaches the teacher")):
        make_stage("stage2", corpus, "train_teacher=true", "loss.kl.weight=0")
