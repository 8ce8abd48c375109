"""docs/extending.md shows how to add a mapper: its own blocks are taken out of it and run."""

from __future__ import annotations

import ast
import re
import sys
import types
from pathlib import Path

import pytest
import torch

from exo2ego.config import load_config
from exo2ego.errors import ConfigError
from exo2ego.model.options import MapperOptions
from exo2ego.model.registry import MAPPERS
from stages.stage2 import Stage2Config
from tests.shared_data import REPOSITORY
from tests.tiny_models import STAGE2, random_ids, random_pixels, tiny_model

GUIDE = (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8")
CHAPTER = GUIDE[GUIDE.index("## Another mapper") : GUIDE.index("## Another divergence")]
FILE, LINE, CONFIGURATION, TEST = re.findall(r"```(?:python|yaml)\n(.*?)```", CHAPTER, flags=re.DOTALL)
MODULE = "exo2ego.model.mixer_mapper"


def module_of(name: str, source: str) -> types.ModuleType:
    module = types.ModuleType(name)
    exec(compile(source, name, "exec"), vars(module))
    return module


@pytest.fixture
def mixer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The repository with the guide's file and line in it."""
    monkeypatch.setitem(sys.modules, MODULE, module_of(MODULE, FILE))
    for name, place in ast.literal_eval(f"{{{LINE}}}").items():
        monkeypatch.setitem(MAPPERS, name, place)


@pytest.mark.usefixtures("mixer")
def test_the_guides_own_test_passes() -> None:
    tests = {name: test for name, test in vars(module_of("guide", TEST)).items() if name.startswith("test_")}
    assert len(tests) == 2
    for test in tests.values():
        test()


@pytest.mark.usefixtures("mixer")
def test_the_guides_configuration_is_valid_and_its_model_trains(tmp_path: Path) -> None:
    path = tmp_path / "stage2.yaml"
    path.write_text(CONFIGURATION.replace("../..", str(REPOSITORY / "stages" / "configs")), encoding="utf-8")
    options = load_config(Stage2Config, path).model.mapper
    assert (options.kind, options.width, options.residual) == ("mixer", 512, True)
    model = tiny_model(STAGE2, mapper=options.model_copy(update={"width": 8, "num_blocks": 1}))
    output = model(
        input_ids=(ids := random_ids(model)),
        labels=ids,
        pixel_values_videos=random_pixels(2),
        exo_pixel_values_videos=random_pixels(2, 1),
        cycle="both",
    )
    (output.loss + output.exo_cycle.square().sum() + output.ego_cycle.square().sum()).backward()
    for mapper in (model.model.mapper_f, model.model.mapper_g):
        assert torch.count_nonzero(mapper.layers[-1].weight.grad)


def test_without_the_line_the_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "stage2.yaml"
    path.write_text(CONFIGURATION.replace("../..", str(REPOSITORY / "stages" / "configs")), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"model\.mapper\.kind: `mixer` is none of resnet, fc, transformer, none"):
        load_config(Stage2Config, path)
    with pytest.raises(ValueError, match="did you mean resnet"):
        MapperOptions(kind="resnets")
