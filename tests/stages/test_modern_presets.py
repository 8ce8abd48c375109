"""The presets of stages/configs/modern at their real sizes, without weights: what is built, and what comes out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from exo2ego.config import load_config
from exo2ego.model.parts import ModelParts
from exo2ego.model.skeleton import build_skeleton
from stages.stage2 import Stage2Config
from tests.shared_data import REPOSITORY
from tests.tiny_models import num_parameters_in_millions

PRESETS = REPOSITORY / "stages" / "configs" / "modern"
STAGE2 = ModelParts(teacher=True, mapper=True, inverse=True)
CLIP, SIGLIP, SIGLIP_27 = (16, 576, 1024), (16, 576, 1152), (16, 729, 1152)
QWEN2_VL = (8, 576, 1280)
# x, y, visual tokens of both branches, width of the language model, parameters of the connector and of F, 1e6
EXPECTED = {
    "qwen2_5": (CLIP, CLIP, 3042, 3584, 375.74, 207.42),
    "qwen3": (CLIP, CLIP, 3042, 4096, 489.19, 207.42),
    "siglip2": (SIGLIP, SIGLIP, 3042, 4096, 490.5, 210.63),
    "siglip2_patch14": (SIGLIP_27, SIGLIP_27, 3528, 4096, 490.5, 210.63),
    "qwen2_vl_teacher": (CLIP, QWEN2_VL, 1521 + 845, 4096, 489.19, 211.94),
    "transformer_mapper": (CLIP, CLIP, 3042, 4096, 489.19, 19.97),
    "softmax_kl": (CLIP, CLIP, 3042, 4096, 489.19, 207.42),
}


@pytest.mark.parametrize("name", sorted(path.name for path in PRESETS.iterdir()))
def test_a_preset_is_what_the_guide_says(name: str) -> None:
    config = load_config(Stage2Config, PRESETS / name / "stage2.yaml")
    skeleton, _ = build_skeleton(config.model, STAGE2)
    model = skeleton.model
    with torch.device("meta"):
        ego = torch.empty(1, 16, 3, model.ego_geometry.image_size, model.ego_geometry.image_size)
        exo = torch.empty(1, 1, 16, 3, model.exo_geometry.image_size, model.exo_geometry.image_size)
        tokens, guidance = skeleton._guided(ego, exo, "both", False)
    x, y, num_tokens, width, connector, mapper = EXPECTED[name]
    assert guidance["ego_features"].shape == guidance["ego_cycle"].shape == (1, *x)
    assert guidance["mapped_features"].shape == (1, *y)
    assert guidance["exo_features"].shape == guidance["exo_cycle"].shape == (1, 1, *y)
    assert tokens.shape == (1, num_tokens, width)
    assert num_parameters_in_millions(model.connector) == connector
    assert num_parameters_in_millions(model.mapper_f) == mapper
    row = next(
        line for line in (REPOSITORY / "docs" / "extending.md").read_text().splitlines() if f"| `{name}` |" in line
    )
    assert f"| {model.num_video_tokens('ego_only')} + {num_tokens - model.num_video_tokens('ego_only')} |" in row


@pytest.mark.parametrize("folder", sorted(PRESETS.iterdir()), ids=lambda folder: folder.name)
def test_a_presets_stages_build_on_one_another(folder: Path) -> None:
    """Each stage's parent is the folder that another shipped file writes, with the same model."""
    from tests.tiny_runs import STAGES

    written = {}
    for path in sorted([*folder.glob("*.yaml"), *(REPOSITORY / "stages/configs/recommended").glob("*.yaml")]):
        config = load_config(STAGES[path.stem][1], path)
        written[config.output_dir] = config
    for path in folder.glob("*.yaml"):
        config = load_config(STAGES[path.stem][1], path)
        if config.parent is not None:
            parent = written[config.parent].model
            free = {"mapper"} if path.stem == "stage2" else set()
            assert config.model.model_dump(exclude=free) == parent.model_dump(exclude=free)
