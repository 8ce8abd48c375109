"""A teacher of another architecture: what F, G, the connectors, fusion and the losses make of two spaces."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from exo2ego.errors import ConfigError
from exo2ego.losses.cycle import cycle_loss
from exo2ego.losses.divergence import divergence_loss
from exo2ego.model.modeling import Exo2EgoForConditionalGeneration
from exo2ego.model.options import ConnectorOptions, MapperOptions, PartOptions
from exo2ego.model.parts import ModelParts
from tests.tiny_models import (
    GRID_SIZE,
    IMAGE_SIZE,
    NUM_FRAMES,
    STAGE2,
    TOWER,
    TOWER_WIDTH,
    random_ids,
    random_pixels,
    tiny_model,
    tiny_options,
)

WIDTH, SIDE = 40, 40  # of the teacher: Qwen2-VL's, ten patches a side, half the time steps
QWEN2_VL = {"model_type": "qwen2_vl_vision", "depth": 2, "embed_dim": WIDTH, "hidden_size": 48, "num_heads": 2}
TEACHER = PartOptions(architecture={**QWEN2_VL, "patch_size": 4}, image_size=SIDE)
PER_BRANCH = ConnectorOptions(depth=1, sharing="per_branch")
KINDS = ["gaussian", "gaussian_clip", "gaussian_batch", "softmax", "softmax_pooled", "softmax_space"]
CLIPS, VIEWS = 2, 2
EGO_SHAPE, EXO_SHAPE = (NUM_FRAMES, GRID_SIZE**2, TOWER_WIDTH), (NUM_FRAMES // 2, (SIDE // 4) ** 2, WIDTH)
RECOMPUTED_TOLERANCE = 1e-5  # float32, the same operations


def model_with(parts: ModelParts = STAGE2, **changes: Any) -> Exo2EgoForConditionalGeneration:
    options = {"teacher_tower": TEACHER, "teacher_feature_layer": -1, "connector": PER_BRANCH}
    return tiny_model(parts, **(options | changes))


def exo_pixels(*leading: int) -> Tensor:
    return torch.randn(*leading, NUM_FRAMES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))


def stage2_output(model: Exo2EgoForConditionalGeneration) -> Any:
    ids = random_ids(model)
    inputs = {"pixel_values_videos": random_pixels(CLIPS), "exo_pixel_values_videos": exo_pixels(CLIPS, VIEWS)}
    return model(input_ids=ids, labels=ids, **inputs, cycle="both")


@pytest.mark.parametrize("kind", ["resnet", "fc", "transformer"])
def test_f_leads_to_the_teachers_space_and_g_back(kind: str) -> None:
    model = model_with(mapper=MapperOptions(kind=kind, width=8, num_blocks=1))
    output = stage2_output(model)
    assert output.ego_features.shape == output.ego_cycle.shape == (CLIPS, *EGO_SHAPE)
    assert output.mapped_features.shape == (CLIPS, *EXO_SHAPE)
    assert output.exo_features.shape == output.exo_cycle.shape == (CLIPS, VIEWS, *EXO_SHAPE)


@torch.no_grad()
def test_token_counts_are_what_comes_out() -> None:
    model = model_with()
    own, theirs = 3 * 5 * 5, 2 * 6 * 6  # STC: (4 + 2 - 2) // 2 + 1 of 4x8x8, and of 2x10x10
    for view, count in {"ego_only": own, "ego": own + theirs, "exo": theirs}.items():
        pixels = exo_pixels(1) if view == "exo" else random_pixels(1)
        assert model.model.num_video_tokens(view) == count  # type: ignore[arg-type]
        assert model.visual_tokens(pixels, view).shape[:2] == (1, count)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_every_divergence_and_the_cycles_train_what_they_should(kind: str) -> None:
    model = model_with()
    model.model.teacher_tower.requires_grad_(False)
    output = stage2_output(model)
    exo, mapped = output.exo_features.flatten(0, 1), output.mapped_features.repeat_interleave(VIEWS, dim=0)
    valid = torch.rand(exo.shape[:3]) > 0.3
    divergence = divergence_loss(exo, mapped, kind=kind, valid=valid, student_valid=valid)  # type: ignore[arg-type]
    assert divergence.shape == (CLIPS * VIEWS,)
    assert bool((divergence > 0).all())
    divergence.sum().backward(retain_graph=True)
    for part in (model.model.vision_tower, model.model.mapper_f):
        assert next(part.parameters()).grad.isfinite().all()
    cycles = cycle_loss(output.ego_features, output.ego_cycle).sum()
    (output.loss + cycles + cycle_loss(exo, output.exo_cycle.flatten(0, 1)).sum()).backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert next(model.model.teacher_tower.parameters()).grad is None


@torch.no_grad()
def test_without_the_teacher_f_leads_to_the_same_space() -> None:
    """Stage 3, and an exported model: the teacher's configuration is enough."""
    with_teacher, without = model_with(), model_with(ModelParts(mapper=True))
    missing = without.load_state_dict(with_teacher.state_dict(), strict=False).missing_keys
    assert (missing, without.model.teacher_tower) == ([], None)
    pixels = random_pixels(1)
    assert torch.equal(without.visual_tokens(pixels, "ego"), with_teacher.visual_tokens(pixels, "ego"))


def test_recomputation_in_all_parts_changes_no_gradient() -> None:
    gradients = []
    for parts in ([], ["towers", "connector", "mappers", "language_model"]):
        model = model_with(mapper=MapperOptions(kind="transformer", width=8, num_blocks=1)).train()
        model.set_gradient_checkpointing(parts)
        output = stage2_output(model)
        (output.loss + output.exo_cycle.square().mean() + output.ego_cycle.square().mean()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=RECOMPUTED_TOLERANCE, atol=RECOMPUTED_TOLERANCE)


@torch.no_grad()
def test_one_connector_serves_two_grids_of_one_width() -> None:
    other_grid = PartOptions(architecture={**TOWER, "patch_size": 8, "image_size": 80})
    model = tiny_model(STAGE2, teacher_tower=other_grid)
    own, theirs = 3 * 5 * 5, 3 * 6 * 6
    assert model.model.connector_exo is None
    assert model.visual_tokens(random_pixels(1), "ego").shape[1] == own + theirs
    assert model.model.num_video_tokens("ego") == own + theirs


SAME_WIDTH = PartOptions(architecture={**QWEN2_VL, "embed_dim": TOWER_WIDTH, "patch_size": 4}, image_size=IMAGE_SIZE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"connector": ConnectorOptions(depth=1)}, r"40 channels on a grid of \(2, 10, 10\).*sharing=per_branch"),
        ({"fusion": "sum"}, "fusion=sum joins x and F.x. place by place.*set fusion=token_concat"),
        ({"fusion": "channel_concat_tokens"}, "set fusion=token_concat"),
        (
            {"teacher_tower": SAME_WIDTH, "connector": ConnectorOptions(depth=1), "fusion": "time_concat"},
            r"grid of \(4, 8, 8\) and F\(x\) on one of \(2, 8, 8\)",
        ),
        ({"mapper": MapperOptions(position="connector", width=8, num_blocks=1)}, "set model.mapper.position=encoder"),
        ({"num_frames": 3}, "num_frames 3: a tower joins 2 frames"),
        (
            {"teacher_tower": TEACHER.model_copy(update={"image_size": 16})},
            "grid of 4x4 patches twice.*kind=transformer",
        ),
    ],
)
def test_what_cannot_work_together_is_refused_with_what_to_set(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model_with(**changes)


def test_a_copy_of_the_ego_tower_cannot_start_another_teacher() -> None:
    with pytest.raises(ValueError, match="set teacher_init=base"):
        tiny_options(teacher_tower=TEACHER, teacher_init="ego")
