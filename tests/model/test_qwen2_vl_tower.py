"""Qwen2-VL's tower: the library's own features of the library's own patches, in the order of the picture."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    PretrainedConfig,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLVideoProcessor,
)

from exo2ego.data.pixels import CLIP_MEAN, CLIP_STD, preprocess
from exo2ego.errors import CheckpointError, ConfigError
from exo2ego.model.building import build_model, part_config
from exo2ego.model.options import ConnectorOptions, PartOptions
from exo2ego.model.parts import ModelParts
from exo2ego.model.qwen2_vl_tower import Qwen2VLTower
from tests.tiny_models import tiny_options, tiny_tokenizer

SIDE, PATCH, FRAMES = 32, 4, 4
GRID = SIDE // PATCH
SIZES = {"depth": 3, "embed_dim": 32, "hidden_size": 48, "num_heads": 2, "mlp_ratio": 2, "patch_size": PATCH}
TOLERANCE = 1e-5  # float32: frames of one video and of two in one call are summed by other kernels
PIXEL_TOLERANCE = 1e-5  # (x / 255 - mean) / std in another order of operations


def vision_config(**changes: object) -> PretrainedConfig:
    config = AutoConfig.for_model("qwen2_vl_vision", **{**SIZES, **changes})
    return Qwen2VLTower.sized(config, SIDE)


@pytest.fixture(scope="module")
def published() -> Qwen2VLForConditionalGeneration:
    """A tiny Qwen2-VL with random weights."""
    torch.manual_seed(0)
    text = {"vocab_size": 64, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "bos_token_id": 0, "eos_token_id": 1}
    rope = {"rope_type": "default", "mrope_section": [4, 4, 4], "rope_theta": 1e6}
    config = Qwen2VLConfig(vision_config=dict(SIZES), text_config={**text, **heads, "rope_parameters": rope})
    return Qwen2VLForConditionalGeneration(config).eval()


@pytest.fixture(scope="module")
def folder(published: Qwen2VLForConditionalGeneration, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As on the hub: the whole model, the tower's tensors as `visual.*`."""
    path = tmp_path_factory.mktemp("published")
    published.save_pretrained(path)
    assert any(name.startswith("visual.blocks.") for name in load_file(path / "model.safetensors"))
    return path


def clip(seed: int) -> numpy.ndarray:
    return numpy.random.default_rng(seed).integers(0, 256, (FRAMES, SIDE, SIDE, 3), dtype=numpy.uint8)


def own_pixels(frames: numpy.ndarray) -> Tensor:
    return preprocess(frames, SIDE, "squash", mean=CLIP_MEAN, std=CLIP_STD, patch_size=PATCH)[0]


def test_patches_are_those_of_the_published_processor() -> None:
    """Pixel statistics, order of patches and order inside a patch."""
    pictures = {"patch_size": PATCH, "temporal_patch_size": 2, "merge_size": 2, "do_sample_frames": False}
    processor = Qwen2VLVideoProcessor(**pictures, size={"shortest_edge": SIDE**2, "longest_edge": FRAMES * SIDE**2})
    frames = clip(0)
    theirs = processor(torch.from_numpy(frames).permute(0, 3, 1, 2), return_tensors="pt")
    assert theirs["video_grid_thw"].tolist() == [[FRAMES // 2, GRID, GRID]]
    ours = Qwen2VLTower(vision_config(), -1)._patches(own_pixels(frames).unsqueeze(0), FRAMES // 2)
    torch.testing.assert_close(ours, theirs["pixel_values_videos"], rtol=PIXEL_TOLERANCE, atol=PIXEL_TOLERANCE)


@torch.no_grad()
def test_features_are_those_before_the_merger(published: Qwen2VLForConditionalGeneration) -> None:
    """Two clips at once; the published merger makes of our features what it makes of its own."""
    visual = published.model.visual
    tower = Qwen2VLTower(vision_config(), -1)
    tower.tower.load_state_dict(visual.state_dict(), strict=False)
    pixels = torch.stack([own_pixels(clip(1)), own_pixels(clip(2))])
    features = tower.eval()(pixels)
    assert features.shape == (2, FRAMES // 2, GRID**2, SIZES["embed_dim"])
    grid = torch.tensor([[FRAMES // 2, GRID, GRID]])
    for number in range(2):
        expected = visual(tower._patches(pixels[number : number + 1], FRAMES // 2), grid_thw=grid)
        rows = features[number].unflatten(1, (GRID // 2, 2, GRID // 2, 2)).transpose(2, 3).flatten(0, 4)
        torch.testing.assert_close(rows, expected.last_hidden_state, rtol=TOLERANCE, atol=TOLERANCE)
        torch.testing.assert_close(visual.merger(rows), expected.pooler_output, rtol=TOLERANCE, atol=TOLERANCE)


@torch.no_grad()
def test_a_place_of_the_picture_is_a_place_of_the_grid() -> None:
    """A change in one patch of the second pair of frames shows there the most, and in the first pair not at all."""
    torch.manual_seed(0)
    tower = Qwen2VLTower(vision_config(depth=1), -1).eval()
    pixels = torch.zeros(1, FRAMES, 3, SIDE, SIDE)
    changed = pixels.clone()
    changed[:, 2:, :, 5 * PATCH : 6 * PATCH, 2 * PATCH : 3 * PATCH] = 3
    difference = (tower(changed) - tower(pixels)).abs().sum(dim=-1)[0]
    assert not difference[0].any()
    assert int(difference[1].argmax()) == 5 * GRID + 2


def test_every_weight_that_is_kept_gets_a_gradient() -> None:
    tower = Qwen2VLTower(vision_config(), -2)
    assert len(tower.tower.blocks) == 2
    tower(torch.randn(1, FRAMES, 3, SIDE, SIDE)).square().sum().backward()
    assert not [name for name, parameter in tower.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize("layer", [-1, -2])
def test_weights_come_out_of_a_checkpoint_of_the_whole_model(
    published: Qwen2VLForConditionalGeneration, folder: Path, layer: int
) -> None:
    options = tiny_options(
        teacher_tower=PartOptions(from_pretrained=str(folder), image_size=SIDE),
        teacher_feature_layer=layer,
        connector=ConnectorOptions(depth=1, sharing="per_branch"),
    )
    model = build_model(options, ModelParts(teacher=True), tiny_tokenizer(), seed=0)
    found = dict(model.model.teacher_tower.tower.named_parameters())
    kept = {name: p for name, p in published.model.visual.named_parameters() if not name.startswith("merger.")}
    if layer == -2:
        kept = {name: parameter for name, parameter in kept.items() if not name.startswith("blocks.2.")}
    assert found.keys() == kept.keys()
    assert all(torch.equal(found[name], kept[name]) for name in kept)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: tensors.pop("visual.blocks.1.mlp.fc1.weight"),
            "1 tensors? .*missing .*blocks.1.mlp.fc1.weight",
        ),
        (lambda tensors: tensors.update({"visual.blocks.1.extra": torch.zeros(1)}), "1 .*unexpected .*blocks.1.extra"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_an_error(folder: Path, tmp_path: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    options = tiny_options(vision_tower=PartOptions(from_pretrained=str(tmp_path), image_size=SIDE))
    with pytest.raises(CheckpointError, match=message):
        build_model(options, ModelParts(), tiny_tokenizer(), seed=0)


@pytest.mark.parametrize("size", [None, SIDE + PATCH])
def test_the_size_of_the_pictures_must_be_given_and_fit(size: int | None) -> None:
    part = PartOptions(architecture={"model_type": "qwen2_vl_vision", **SIZES}, image_size=size)
    with pytest.raises(ConfigError, match=rf"multiple of 8 pixels, got {size}: set image_size"):
        build_model(tiny_options(vision_tower=part), ModelParts(), tiny_tokenizer(), seed=0)


def test_a_tower_of_one_size_takes_no_other() -> None:
    tower = tiny_options().vision_tower.model_copy(update={"image_size": 64})
    with pytest.raises(ConfigError, match="image_size 64: a tower of type clip_vision_model has a size of its own"):
        part_config(tower, vision=True)
