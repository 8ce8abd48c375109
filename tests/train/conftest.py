"""The tiny corpus and a finished run of every stage on it, made once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.tiny_corpus import TinyCorpus, make_corpus
from tests.tiny_runs import run


@dataclass(frozen=True)
class Chain:
    """Finished run folders."""

    init_ego: Path
    stage1: Path
    stage2: Path


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> TinyCorpus:
    """Videos, tables and a language model."""
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def chain(corpus: TinyCorpus, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Initialisation, stage 1 and stage 2, two steps each: what the next stage builds on."""
    runs = tmp_path_factory.mktemp("runs")
    made = Chain(runs / "init_ego", runs / "stage1", runs / "stage2")
    assert run("init_ego", corpus, made.init_ego, "max_steps=2") == 0
    assert run("stage1", corpus, made.stage1, "max_steps=2", f"parent={made.init_ego}") == 0
    assert run("stage2", corpus, made.stage2, "max_steps=2", f"parent={made.stage1}") == 0
    return made
