"""Vision towers: the features of the full published model, without the layers that are not used."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    CLIPConfig,
    CLIPModel,
    PreTrainedModel,
    SiglipConfig,
    SiglipModel,
)

from exo2ego.errors import CheckpointError, ConfigError
from exo2ego.model.building import build_model
from exo2ego.model.options import PartOptions
from exo2ego.model.parts import ModelParts
from exo2ego.model.vision_tower import FrameTower, VisionTower, tower_class, without_head
from tests.tiny_models import BLOCKS, IMAGE_SIZE, TOWER_WIDTH, random_pixels, tiny_options, tiny_tokenizer

SIZES = {"hidden_size": TOWER_WIDTH, **BLOCKS}
PICTURES = {"image_size": IMAGE_SIZE, "patch_size": 4, **SIZES}
TEXT = {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, **SIZES}


def full_tower(model_type: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModel.from_config(AutoConfig.for_model(model_type, **PICTURES)).eval()


def truncated_copy(full: PreTrainedModel, layer: int) -> VisionTower:
    """The same weights in a tower that ends at `layer`."""
    tower = AutoModel.from_config(FrameTower.truncated(full.config, layer))
    tower.load_state_dict(full.state_dict(), strict=False)
    return FrameTower(full.config, layer, tower).eval()


def hidden_patches(full: PreTrainedModel, pixels: Tensor, layer: int) -> Tensor:
    """What VideoLLaMA2 computes: all hidden states, one of them chosen, without the class token if there is one."""
    hidden = full(pixels.flatten(0, 1), output_hidden_states=True).hidden_states[layer]
    patches = hidden[:, 1:] if full.config.model_type == "clip_vision_model" else hidden
    return patches.unflatten(0, pixels.shape[:2])


@pytest.mark.parametrize("model_type", ["clip_vision_model", "siglip_vision_model"])
@pytest.mark.parametrize("layer", [-1, -2, -3, 1])
@torch.no_grad()
def test_truncated_tower_gives_the_hidden_state_of_the_full_one(model_type: str, layer: int) -> None:
    full = full_tower(model_type)
    pixels = random_pixels(2)
    assert torch.equal(truncated_copy(full, layer)(pixels), hidden_patches(full, pixels, layer))


@pytest.mark.parametrize("model_type", ["clip_vision_model", "siglip_vision_model"])
def test_every_weight_that_is_kept_gets_a_gradient(model_type: str) -> None:
    tower = FrameTower(AutoConfig.for_model(model_type, **PICTURES), -2)
    tower(random_pixels(1)).square().sum().backward()
    assert not [name for name, parameter in tower.named_parameters() if parameter.grad is None]


def test_siglip_loses_its_final_norm_and_pooling() -> None:
    names = " ".join(name for name, _ in without_head(full_tower("siglip_vision_model")).named_parameters())
    assert "post_layernorm" not in names
    assert "head" not in names


@pytest.mark.parametrize("layer", [-5, 4])
def test_a_layer_that_the_tower_does_not_have_is_refused(layer: int) -> None:
    with pytest.raises(ConfigError, match="hidden states 0 to 3, or -4 to -1"):
        FrameTower.truncated(AutoConfig.for_model("clip_vision_model", **PICTURES), layer)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders as published: CLIP and SigLIP with both towers, or a vision tower alone."""
    root = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(vision_config=PICTURES, text_config=TEXT, projection_dim=8)).save_pretrained(root / "clip")
    SiglipModel(SiglipConfig(vision_config=PICTURES, text_config=TEXT)).save_pretrained(root / "siglip")
    full_tower("clip_vision_model").save_pretrained(root / "clip_vision")
    return lambda name: root / name


def build_with_tower(folder: Path, parts: ModelParts | None = None) -> VisionTower:
    options = tiny_options(vision_tower=PartOptions(from_pretrained=str(folder)))
    model = build_model(options, parts or ModelParts(teacher=True), tiny_tokenizer(), seed=0).eval()
    assert model.model.teacher_tower is not None
    for own, teachers in zip(
        model.model.vision_tower.parameters(), model.model.teacher_tower.parameters(), strict=True
    ):
        assert torch.equal(own, teachers)
        assert own is not teachers
    return model.model.vision_tower


@pytest.mark.parametrize("name", ["clip", "siglip", "clip_vision"])
@torch.no_grad()
def test_published_weights_fill_both_towers(published: Callable[[str], Path], name: str) -> None:
    full = AutoModel.from_pretrained(str(published(name)))
    pixels = random_pixels(1)
    expected = hidden_patches(getattr(full, "vision_model", full).eval(), pixels, -2)
    assert torch.equal(build_with_tower(published(name))(pixels), expected)


def damaged(source: Path, target: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


LAYER = "layers.0.mlp.fc1.weight"


def remove(tensors: dict[str, Tensor]) -> None:
    del tensors[next(name for name in tensors if name.endswith(LAYER))]


def misshape(tensors: dict[str, Tensor]) -> None:
    tensors[next(name for name in tensors if name.endswith(LAYER))] = torch.zeros(3, 3)


def add(tensors: dict[str, Tensor]) -> None:
    tensors["adapter.weight"] = torch.zeros(1)


def add_to_a_used_layer(tensors: dict[str, Tensor]) -> None:
    tensors[next(name for name in tensors if name.endswith(LAYER)).replace("fc1", "fc3")] = torch.zeros(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add_to_a_used_layer, "1 unexpected .*layers.0.mlp.fc3.weight"),
        (remove, "1 tensors are missing .*layers.0.mlp.fc1.weight"),
        (misshape, "1 misshapen .*layers.0.mlp.fc1.weight.*3, 3"),
        (add, "1 unexpected .*adapter.weight"),
    ],
)
def test_weights_that_do_not_fit_are_an_error(
    published: Callable[[str], Path], tmp_path: Path, change: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        build_with_tower(damaged(published("clip_vision"), tmp_path / "clip", change))


def test_a_cut_weight_file_is_an_error(published: Callable[[str], Path], tmp_path: Path) -> None:
    folder = damaged(published("clip_vision"), tmp_path / "clip", lambda tensors: None)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        build_with_tower(folder)


def test_an_architecture_without_a_tower_class_is_refused() -> None:
    part = PartOptions(architecture={"model_type": "dinov2"})
    with pytest.raises(ConfigError, match=r"model_type `dinov2` is none of clip_vision_model, .*docs/extending\.md"):
        build_model(tiny_options(vision_tower=part), ModelParts(), tiny_tokenizer(), seed=0)


@torch.no_grad()
def test_pixels_beyond_the_last_whole_patch_are_not_seen() -> None:
    """SigLIP2-so400m-patch14-384: 27 patches of 14 px, 6 px left over."""
    tower = FrameTower(AutoConfig.for_model("siglip_vision_model", **{**PICTURES, "image_size": 30}), -2).eval()
    pixels = torch.randn(1, 2, 3, 30, 30)
    changed = pixels.clone()
    changed[..., 28:], changed[..., 28:, :] = 0, 0
    assert tower.geometry.grid(2) == (2, 7, 7)
    assert tower(pixels).shape == (1, 2, 49, TOWER_WIDTH)
    assert torch.equal(tower(pixels), tower(changed))


@pytest.mark.parametrize(
    ("model_type", "statistics"),
    [("clip_vision_model", "clip"), ("siglip_vision_model", "siglip"), ("qwen2_vl_vision", "clip")],
)
def test_every_tower_says_how_its_pixels_are_normalised(model_type: str, statistics: str) -> None:
    config = AutoConfig.for_model(model_type)
    assert tower_class(config).pixel_statistics(config) == statistics
