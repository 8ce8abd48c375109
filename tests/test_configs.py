"""Every shipped YAML file is valid for the command it belongs to, or is a base that such a file extends."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from exo2ego.config import Config, load_config, parse_yaml, to_yaml, validate_config
from scripts.ablations.suites import BaseSet, Suite
from tests.shared_data import REPOSITORY

SCRIPTED: dict[str, type[Config]] = {"ablations": Suite, "bases": BaseSet}
ROOTS = ("stages", "eval", "data_builders")
FILES = sorted(path for root in ROOTS for path in (REPOSITORY / root / "configs").rglob("*.yaml"))


def config_class(path: Path) -> type[Config] | None:
    """The class of the command that a file is for.

    stages/configs/**/stage2.yaml belongs to `stages.stage2`, eval/configs/*.yaml to `eval.egobench`,
    data_builders/configs/egoit.yaml to `data_builders.egoit.all`; suites of ablations and their base sets to
    `scripts.ablate`.
    """
    if path.parent.name in SCRIPTED:
        return SCRIPTED[path.parent.name]
    root = path.relative_to(REPOSITORY).parts[0]
    module = {"eval": "egobench", "data_builders": f"{path.stem}/all"}.get(root, path.stem)
    if not (REPOSITORY / root / f"{module}.py").exists():
        return None
    return importlib.import_module(f"{root}.{module}".replace("/", ".")).CONFIG


def extended_files() -> set[Path]:
    parents = ((path, parse_yaml(path.read_text(encoding="utf-8"), str(path)).get("extends")) for path in FILES)
    return {(path.parent / parent).resolve() for path, parent in parents if parent}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_shipped_file_is_valid(path: Path) -> None:
    shipped = config_class(path)
    if shipped is None:
        assert path in extended_files(), "neither named like a stage nor extended by another file"
        return
    config = load_config(shipped, path)
    assert validate_config(shipped, parse_yaml(to_yaml(config), "printed"), "printed") == config


@pytest.mark.parametrize("stage", ["init_ego", "stage1", "stage2", "stage3"])
@pytest.mark.parametrize("size", ["paper", "recommended", "tiny"])
def test_every_stage_is_shipped_in_every_size(stage: str, size: str) -> None:
    assert REPOSITORY / "stages" / "configs" / size / f"{stage}.yaml" in FILES
