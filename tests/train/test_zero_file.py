"""The DeepSpeed file of a run: what is followed, and one clear message for everything else, before a model is built."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from exo2ego.errors import ConfigError
from exo2ego.train import zero as zero_module
from exo2ego.train.zero import deepspeed_plugin
from exo2ego.train.zero_file import OURS, REFUSED, read_zero_file
from tests.shared_data import REPOSITORY

SHIPPED = sorted((REPOSITORY / "stages" / "configs" / "deepspeed").glob("*.json"))


def written(tmp_path: Path, values: Any) -> Path:
    path = tmp_path / "zero.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values), encoding="utf-8")
    return path


def test_every_zero_stage_is_shipped() -> None:
    assert [path.name for path in SHIPPED] == ["zero1.json", "zero2.json", "zero3.json"]
    for stage, path in enumerate(SHIPPED, 1):
        values = read_zero_file(path)
        assert values["zero_optimization"]["stage"] == stage
        assert values == json.loads(path.read_text(encoding="utf-8"))  # nothing is added


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "zero_optimization: is required"),
        ([], "expected an object"),
        ({"zero_optimization": 2}, "expected an object"),
        ({"zero_optimization": {"stage": 0}}, "zero_optimization.stage: Input should be 1, 2 or 3, got 0"),
        ({"zero_optimization": {"stage": "auto"}}, "should be 1, 2 or 3"),
        (
            {"zero_optimization": {"stage": 2, "overlap_com": True}},
            r"overlap_com: unknown key \(did you mean .*overlap_comm",
        ),
        ({"zero_optimisation": {"stage": 2}}, r"zero_optimisation: unknown key \(did you mean `zero_optimization`"),
        (
            {"zero_optimization": {"stage": 2, "reduce_bucket_size": "auto"}},
            "reduce_bucket_size: Input should be a valid int",
        ),
        (
            {"zero_optimization": {"stage": 2, "stage3_max_live_parameters": 1}},
            "`stage3_max_live_parameters` is for stage 3, but stage is 2: remove it",
        ),
        ('{"zero_optimization": {"stage": 2', "not valid JSON: line 1"),
        *[({"zero_optimization": {"stage": 2}, key: 1}, f"remove {key}: batch, optim") for key in OURS],
        *[({"zero_optimization": {"stage": 3, key: {}}}, f"`{key}` cannot be used here: ") for key in REFUSED],
    ],
)
def test_a_file_that_training_cannot_follow(tmp_path: Path, values: Any, message: str) -> None:
    path = written(tmp_path, values)
    with pytest.raises(ConfigError, match=message) as raised:
        read_zero_file(path)
    assert str(path) in str(raised.value)


def test_all_faults_come_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 problems"):
        read_zero_file(written(tmp_path, {"zero_optimization": {"stage": 4}, "steps_per_prin": 1}))


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(ConfigError, match="stages/configs/deepspeed holds files that work"):
            read_zero_file(path)


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")
def test_deepspeed_needs_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="start with `torchrun"):
        deepspeed_plugin(SHIPPED[1])


def test_compiled_blocks_and_zero_3() -> None:
    with pytest.raises(ConfigError, match=r"drop `compile`, or use zero2\.json"):
        deepspeed_plugin(SHIPPED[2], compiles=True)


def test_deepspeed_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zero_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"the package is not installed: pip install 'exo2ego\[deepspeed\]'"):
        deepspeed_plugin(SHIPPED[1])
