"""open_clip's towers in transformers' classes: the hidden states of open_clip's own model, or a refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import CLIPVisionCfg, _build_vision_tower
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel

from exo2ego.data.pixels import CLIP_MEAN, CLIP_STD
from exo2ego.errors import CheckpointError, ConfigError
from exo2ego.model.building import build_model
from exo2ego.model.open_clip_tower import _config_of, tower_config, tower_weights
from exo2ego.model.options import PartOptions
from exo2ego.model.parts import ModelParts
from exo2ego.train.assembly import build_processor
from tests.tiny_models import GRID_SIZE, IMAGE_SIZE, STAGE2, random_pixels, tiny_options, tiny_tokenizer

# float32: open_clip computes query, key and value in one product, transformers in three
TOLERANCE = 2e-6
SIZES: dict[str, Any] = {
    "layers": 3,
    "width": 32,
    "head_width": 8,
    "patch_size": IMAGE_SIZE // GRID_SIZE,
    "image_size": IMAGE_SIZE,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "quick_gelu": {"quick_gelu": True},
    "gelu_tanh": {"act_kwargs": {"approximate": "tanh"}},
    "other_epsilon": {"norm_kwargs": {"eps": 1e-3}},
    "wide_feed_forward": {"mlp_ratio": 3.0},
    "average_pooling": {"pool_type": "avg", "final_ln_after_pool": True},
    "coca": {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "patch_dropout": {"patch_dropout": 0.5},
    "sine_positions": {"pos_embed_type": "sin_cos_2d"},
}
REFUSED: dict[str, dict[str, Any]] = {
    "no_pre_norm": {"no_ln_pre": True},
    "layer_scale": {"ls_init_value": 0.1},
    "query_norm": {"qk_norm": True},
    "resnet": {"layers": [1, 1, 1, 1]},
    "oblong": {"image_size": [32, 16]},
}


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns what gives open_clip a tiny model of that name for the length of a test."""
    configs = dict(open_clip.factory._MODEL_CONFIGS)
    monkeypatch.setattr("open_clip.factory._MODEL_CONFIGS", configs)

    def register(name: str, **vision: Any) -> dict[str, Any]:
        quick_gelu = vision.pop("quick_gelu", False)
        values = {"embed_dim": 16, "quick_gelu": quick_gelu, "vision_cfg": SIZES | vision, "text_cfg": TEXT}
        configs[name] = values
        return values

    return register


TEXT = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}


def with_random_weights(module: nn.Module) -> nn.Module:
    """Leaves no parameter at the zero or one that it starts with."""
    generator = torch.Generator().manual_seed(2)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def written(module: nn.Module, path: Path, prefix: str = "visual.") -> Path:
    save_file({prefix + name: tensor.contiguous() for name, tensor in module.state_dict().items()}, path)
    return path


def patches_of(tower: Any, pixels: Tensor, num_blocks: int) -> Tensor:
    """Returns open_clip's own hidden states after `num_blocks` blocks, without class token."""
    if hasattr(tower, "trunk"):
        kept = tower.trunk.forward_intermediates(pixels, indices=[num_blocks - 1], norm=False, output_fmt="NLC")
        return kept[1][0]
    out = tower.forward_intermediates(pixels, indices=[num_blocks - 1], output_fmt="NLC", normalize_intermediates=False)
    return out["image_intermediates"][0]


def converted_patches(name: str, path: Path, pixels: Tensor) -> Tensor:
    """Returns the features of our tower, loaded as a configuration says."""
    part = PartOptions(open_clip=name, checkpoint=str(path))
    model = build_model(tiny_options(vision_tower=part), ModelParts(mapper=True), tiny_tokenizer(), seed=0)
    return model.eval().model.vision_tower(pixels)


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_hidden_states_equal_open_clips_own(registered: Any, tmp_path: Path, variant: str) -> None:
    values = registered("tiny", **VARIANTS[variant])
    torch.manual_seed(0)
    tower = _build_vision_tower(16, CLIPVisionCfg(**values["vision_cfg"]), values["quick_gelu"])
    with_random_weights(tower)
    pixels = random_pixels(1)
    expected = patches_of(tower, pixels.flatten(0, 1), num_blocks=2)
    ours = converted_patches("tiny", written(tower, tmp_path / "model.safetensors"), pixels)
    torch.testing.assert_close(ours[0], expected, rtol=TOLERANCE, atol=TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize(
    ("trunk", "model_type", "activation"),
    [
        ("vit_base_patch16_siglip_224", "siglip_vision_model", "gelu"),
        ("vit_base_patch32_siglip_256", "siglip_vision_model", "gelu_pytorch_tanh"),
        ("vit_large_patch14_clip_224", "clip_vision_model", "gelu"),
    ],
)
def test_hidden_states_equal_timms_own(tmp_path: Path, trunk: str, model_type: str, activation: str) -> None:
    import timm

    sizes = {"img_size": IMAGE_SIZE, "patch_size": IMAGE_SIZE // GRID_SIZE, "embed_dim": 32, "depth": 3, "num_heads": 4}
    torch.manual_seed(0)
    holder = nn.Module()
    holder.trunk = with_random_weights(timm.create_model(trunk, **sizes))
    config = _config_of("tiny", holder)
    assert (config.model_type, config.hidden_act) == (model_type, activation)
    tensors, left_out = tower_weights(written(holder, tmp_path / "model.safetensors"))
    assert {name.split(".")[0] for name in left_out} <= {"norm", "attn_pool", "head", "fc_norm"}
    ours = AutoModel.from_config(config).eval()
    missing, unexpected = ours.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert {name.split(".")[0] for name in missing} <= {"post_layernorm", "head"}
    pixels = random_pixels(1)[0]
    hidden = ours(pixel_values=pixels, output_hidden_states=True).hidden_states[2][:, -(GRID_SIZE**2) :]
    torch.testing.assert_close(hidden, patches_of(holder, pixels, 2), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("variant", REFUSED)
def test_what_transformers_cannot_express_is_refused(registered: Any, tmp_path: Path, variant: str) -> None:
    registered("odd", **REFUSED[variant])
    with pytest.raises(ConfigError, match=r"cannot be converted.*; can be: plain vision transformers with pre-norm"):
        tower_config("odd", tmp_path / "model.pt")


@pytest.mark.parametrize("name", ["RN50", "convnext_base", "EVA02-L-14-336", "MobileCLIP-B", "PE-Core-L-14-336"])
def test_published_architectures_that_cannot_be_converted(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is a .*, which cannot be converted"):
        tower_config(name, tmp_path / "model.pt")


def test_published_sizes_and_pixel_statistics(tmp_path: Path) -> None:
    config = tower_config("ViT-L-14-336-quickgelu", tmp_path / "model.pt")
    sizes = (config.hidden_size, config.num_hidden_layers, config.image_size, config.patch_size)
    assert sizes == (1024, 24, 336, 14)
    assert (config.num_attention_heads, config.intermediate_size, config.hidden_act) == (16, 4096, "quick_gelu")
    assert config.image_mean == pytest.approx(CLIP_MEAN)
    assert config.image_std == pytest.approx(CLIP_STD)
    siglip = tower_config("ViT-SO400M-16-SigLIP2-384", tmp_path / "model.pt")
    assert (siglip.hidden_size, siglip.num_hidden_layers, siglip.image_size) == (1152, 27, 384)
    assert (siglip.image_mean, siglip.image_std) == ([0.5] * 3, [0.5] * 3)


def test_the_activation_is_never_guessed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All published weights of ViT-L-14-336 need QuickGELU, some of ViT-B-32; their tensors look the same."""
    with pytest.raises(ConfigError, match=r"\(openai\) were trained with QuickGELU: name ViT-L-14-336-quickgelu"):
        tower_config("ViT-L-14-336", tmp_path / "model.pt")
    assert tower_config("ViT-B-32", tmp_path / "model.pt").hidden_act == "gelu"
    assert "the releases openai, " in " ".join(capsys.readouterr().out.split())


def test_the_checkpoints_own_configuration_is_followed(registered: Any, tmp_path: Path) -> None:
    values = registered("tiny")
    statistics = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    own = tmp_path / "open_clip_config.json"
    own.write_text(json.dumps({"model_cfg": values, "preprocess_cfg": statistics}))
    config = tower_config("tiny", tmp_path / "model.safetensors")
    assert (config.image_mean, config.image_std) == (statistics["mean"], statistics["std"])
    own.write_text(json.dumps({"model_cfg": {**values, "quick_gelu": True}}))
    with pytest.raises(ConfigError, match="another tower than tiny: quick_gelu: True there, False for tiny"):
        tower_config("tiny", tmp_path / "model.safetensors")
    own.write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        tower_config("tiny", tmp_path / "model.safetensors")


def test_pixels_are_normalised_as_the_checkpoint_says(registered: Any, tmp_path: Path) -> None:
    values = registered("tiny")
    tower = _build_vision_tower(16, CLIPVisionCfg(**values["vision_cfg"]))
    statistics = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"preprocess_cfg": statistics}))
    part = PartOptions(open_clip="tiny", checkpoint=str(written(tower, tmp_path / "model.safetensors")))
    model = build_model(tiny_options(vision_tower=part), STAGE2, tiny_tokenizer(), seed=0)
    processor = build_processor(model, tiny_tokenizer(), "pad")
    assert (list(processor.image_mean), list(processor.image_std)) == (statistics["mean"], statistics["std"])
    assert model.config.to_dict()["vision_config"]["image_mean"] == statistics["mean"]


def test_unknown_names_and_absent_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"open_clip has no model ViT-L-14-337; it has .*ViT-L-14-336"):
        tower_config("ViT-L-14-337", tmp_path / "model.pt")
    with pytest.raises(ValueError, match="open_clip needs checkpoint"):
        PartOptions(open_clip="ViT-B-32")
    part = PartOptions(open_clip="ViT-B-32", checkpoint=str(tmp_path / "nowhere.pt"))
    with pytest.raises(ConfigError, match=r"model.vision_tower.checkpoint: .*nowhere.pt is no file"):
        build_model(tiny_options(vision_tower=part), ModelParts(), tiny_tokenizer(), seed=0)


@torch.no_grad()
def test_every_form_of_a_checkpoint_gives_the_same_tower(registered: Any, tmp_path: Path) -> None:
    """Safetensors, a plain state dict, and a checkpoint of open_clip's own distributed training."""
    registered("tiny")
    torch.manual_seed(0)
    whole = open_clip.create_model("tiny", pretrained=None)
    state = {name: tensor.contiguous() for name, tensor in whole.state_dict().items()}
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.bin")
    training = {"epoch": 3, "name": "run", "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}
    torch.save(training, tmp_path / "c.pt")
    pixels = random_pixels(1)
    expected = patches_of(whole.eval().visual, pixels.flatten(0, 1), 2)
    for name in ("a.safetensors", "b.bin", "c.pt"):
        torch.testing.assert_close(
            converted_patches("tiny", tmp_path / name, pixels)[0], expected, rtol=TOLERANCE, atol=TOLERANCE
        )


def test_missing_and_strange_tensors_stop_it(registered: Any, tmp_path: Path) -> None:
    values = registered("tiny")
    path = written(_build_vision_tower(16, CLIPVisionCfg(**values["vision_cfg"])), tmp_path / "model.safetensors")
    whole = load_file(path)
    part = PartOptions(open_clip="tiny", checkpoint=str(path))
    for change, message in (
        ({"visual.transformer.resblocks.0.ls_1.gamma": torch.ones(32)}, "1 tensors of the tower have no place"),
        ({"visual.ln_pre.bias": None}, "1 missing .*pre_layrnorm.bias"),
        ({"visual.conv1.weight": torch.zeros(32, 3, 8, 8)}, "1 of another shape .*patch_embedding"),
    ):
        changed = {name: tensor for name, tensor in (whole | change).items() if tensor is not None}
        save_file(changed, path)
        with pytest.raises(CheckpointError, match=message):
            build_model(tiny_options(vision_tower=part), ModelParts(), tiny_tokenizer(), seed=0)
    save_file({"text.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="no tensor starts with visual"):
        tower_weights(path)
