"""VideoLLaMA2's releases: the 795 published names, every tensor in its place, no code run, every gap an error."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from exo2ego.errors import CheckpointError, ConfigError
from exo2ego.model.building import build_model, build_tokenizer
from exo2ego.model.connector import build_connector
from exo2ego.model.modeling import Exo2EgoForConditionalGeneration
from exo2ego.model.options import ConnectorOptions, ModelOptions, PartOptions
from exo2ego.model.parts import ModelParts
from exo2ego.model.videollama2 import CLIP_LARGE_336, connector_weights, language_config, tower_config, tower_weights
from tests.model.published_checkpoints import (
    PROJECTOR_PREFIX,
    TOWER_PREFIX,
    clip_vision_names,
    connector_names,
    index_text,
    mistral_names,
    projector_tensors,
    videollama2_names,
    write_shards,
    write_videollama2,
    write_videollama2_base,
)
from tests.tiny_models import LANGUAGE, STAGE2, TOWER, tiny_model, tiny_options

PUBLISHED_INDEX_BYTES = 82_247  # of VideoLLaMA2-7B-16F; the hub lists 82.2 kB
PUBLISHED_BYTES = 16_068_868_096  # 8,034.43 M parameters in bfloat16


def test_the_rule_gives_the_published_names_and_the_size_of_the_published_index() -> None:
    names = videollama2_names(32, 24, 4)
    parts = (mistral_names(32), clip_vision_names(24), connector_names(4))
    assert [len(part) for part in parts] == [291, 391, 113]
    assert len(names) == len(set(names)) == 795
    assert len(index_text(names, 4, PUBLISHED_BYTES).encode()) == PUBLISHED_INDEX_BYTES
    once = [name.replace("vision_tower.vision_tower.", "vision_tower.") for name in names]
    assert len(index_text(once, 4, PUBLISHED_BYTES).encode()) != PUBLISHED_INDEX_BYTES, "the doubled level is real"


def test_our_connector_has_the_113_published_names() -> None:
    assert sorted(build_connector("stc", 8, 16, depth=4).state_dict()) == sorted(connector_names(4))


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    write_videollama2(folder / "VideoLLaMA2-7B-16F", folder / "clip")
    return folder / "VideoLLaMA2-7B-16F"


def tensors_of(release: Path) -> dict[str, Tensor]:
    return write_videollama2(release.parent / "again", release.parent / "clip")


def from_release(release: Path, parts: ModelParts | None = None) -> Exo2EgoForConditionalGeneration:
    part = PartOptions(videollama2=str(release))
    options = tiny_options(vision_tower=part, language_model=part, videollama2=str(release))
    return build_model(options, parts or ModelParts(mapper=True), build_tokenizer(options), seed=0)


def test_every_tensor_of_a_full_release_has_its_place(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published = tensors_of(release)
    model = from_release(release, STAGE2)
    ours = model.state_dict()
    used = set()
    for name, tensor in published.items():
        layers = [part for part in name.split(".") if part.isdigit()]
        if name.startswith(PROJECTOR_PREFIX):
            places = [name.replace("mm_projector", "connector")]
        elif name.startswith(TOWER_PREFIX):
            if layers[:1] == [str(TOWER["num_hidden_layers"] - 1)] or ".post_layernorm." in name:
                continue
            tail = name.removeprefix(TOWER_PREFIX)
            places = [f"model.{tower}.tower.{tail}" for tower in ("vision_tower", "teacher_tower")]
        else:
            places = [name if name.startswith("lm_head") else name.replace("model.", "model.language_model.", 1)]
        for place in places:
            held = ours[place][: len(tensor)] if tensor.ndim else ours[place]
            assert torch.equal(held.float(), tensor.float()), place
            used.add(place)
    fresh = {name for name in ours if name not in used}
    assert all(name.startswith(("model.mapper_f.", "model.mapper_g.")) for name in fresh), sorted(fresh)
    said = " ".join(capsys.readouterr().out.split())
    num_tower = len(clip_vision_names(TOWER["num_hidden_layers"] - 1)) - 2
    beside = "left out: 16 layers.2, 2 post_layernorm"
    assert f"loaded {num_tower} / expected {num_tower} tensors: vision tower from {release}; {beside}" in said
    assert f"loaded {num_tower} / expected {num_tower} tensors: teacher tower" in said
    num_language = len(mistral_names(LANGUAGE["num_hidden_layers"]))
    num_whole_tower = len(clip_vision_names(TOWER["num_hidden_layers"]))
    beside = f"left out: {len(connector_names(1))} mm_projector, {num_whole_tower} vision_tower"
    assert f"loaded {num_language} / expected {num_language} tensors: language model from {release}; {beside}" in said
    num_connector = len(connector_names(1))
    assert f"loaded {num_connector} / expected {num_connector} tensors: connector from {release}" in said


def test_its_language_model_is_a_mistral_with_its_own_numbers(release: Path) -> None:
    config = language_config(release)
    assert config.model_type == "mistral"
    assert config.sliding_window is None
    assert config.rope_parameters["rope_theta"] == 1000000.0
    assert config.hidden_size == LANGUAGE["hidden_size"]
    assert not hasattr(config, "mm_vision_tower")
    model = from_release(release)
    assert next(model.model.language_model.parameters()).dtype == torch.bfloat16
    assert next(model.model.vision_tower.parameters()).dtype == torch.float32


def test_its_tower_may_be_named_by_the_hub(tmp_path: Path) -> None:
    values = {"model_type": "videollama2_mistral", "mm_vision_tower": "openai/clip-vit-large-patch14-336"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    config = tower_config(tmp_path)
    assert {name: getattr(config, name) for name in CLIP_LARGE_336} == CLIP_LARGE_336
    assert config.hidden_act == "quick_gelu"
    (tmp_path / "config.json").write_text(json.dumps({**values, "mm_vision_tower": "somebody/else"}))
    with pytest.raises(ConfigError, match="names the vision tower `somebody/else`, whose sizes are not known"):
        tower_config(tmp_path)


def test_a_release_of_another_kind_is_named(tmp_path: Path, release: Path) -> None:
    with pytest.raises(ConfigError, match="is no VideoLLaMA2 release"):
        language_config(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "videollama2_rwkv9"}')
    with pytest.raises(ConfigError, match="a language model of type `rwkv9`"):
        language_config(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "videollama2_mistral"}')
    write_videollama2_base(tmp_path)
    with pytest.raises(ConfigError, match="a -Base release holds the connector alone"):
        language_config(tmp_path)
    with pytest.raises(CheckpointError, match=r"expected mm_projector.bin or model.safetensors.index.json"):
        tower_weights(tmp_path)


def test_a_tensor_that_a_release_should_not_have_stops_it(release: Path, tmp_path: Path) -> None:
    odd = tensors_of(release) | {"model.extra.weight": torch.zeros(1)}
    write_shards(tmp_path, odd, 4)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text((release / name).read_text())
    with pytest.raises(CheckpointError, match=r"1 unexpected \['model.extra.weight'\]"):
        from_release(tmp_path)


@pytest.mark.parametrize("sharing", ["shared", "per_branch"])
def test_a_base_release_starts_every_connector(tmp_path: Path, sharing: str) -> None:
    folder, weights = write_videollama2_base(tmp_path), projector_tensors()
    options = ConnectorOptions(depth=1, sharing=sharing)  # type: ignore[arg-type]
    model = tiny_model(STAGE2, connector=options, videollama2=str(folder)).model
    connectors = [model.connector] + ([model.connector_exo] if sharing == "per_branch" else [])
    for connector in connectors:
        for name, tensor in connector.state_dict().items():
            assert torch.equal(tensor, weights[PROJECTOR_PREFIX + name].float())


def test_channel_concatenation_keeps_videollama2s_shapes(tmp_path: Path) -> None:
    folder = write_videollama2_base(tmp_path)
    model = tiny_model(STAGE2, fusion="channel_concat", videollama2=str(folder)).model
    expected = projector_tensors()[f"{PROJECTOR_PREFIX}readout.2.weight"].float()
    assert torch.equal(model.connector.readout[2].weight, expected)


def test_a_connector_of_another_kind_is_refused(tmp_path: Path) -> None:
    folder = write_videollama2_base(tmp_path)
    with pytest.raises(CheckpointError, match=r"2 extra .*sampler.0.bias"):
        tiny_model(connector=ConnectorOptions(kind="stp", depth=1), videollama2=str(folder))


class RunsOnLoad:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.open, (str(self.path), os.O_CREAT)


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    proof = tmp_path / "the code was run"
    folder = write_videollama2_base(tmp_path / "v", {f"{PROJECTOR_PREFIX}readout.0.weight": RunsOnLoad(proof)})
    with pytest.raises(CheckpointError, match="code in a file is never run"):
        connector_weights(folder)
    assert not proof.exists()


def test_a_folder_without_a_projector_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected mm_projector.bin or model.safetensors.index.json"):
        connector_weights(tmp_path)
    write_videollama2_base(tmp_path, {"model.norm.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"no tensor starts with model.mm_projector."):
        connector_weights(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_cut_projector_is_an_error(tmp_path: Path, share: float) -> None:
    path = write_videollama2_base(tmp_path) / "mm_projector.bin"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError):
        connector_weights(tmp_path)


def test_a_projector_that_is_no_table_of_tensors_is_an_error(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "mm_projector.bin")
    with pytest.raises(CheckpointError, match="cannot be read"):
        connector_weights(tmp_path)


def cut_index(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text()[:-40])


def point_outside(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-00001", "../model-00001"))


def remove_shard(folder: Path) -> None:
    next(folder.glob("*.safetensors")).unlink()


def cut_shard(folder: Path) -> None:
    shard = next(folder.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-40])


@pytest.mark.parametrize("damage", [cut_index, point_outside, remove_shard, cut_shard])
def test_damaged_shards_are_an_error(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = tmp_path / "VideoLLaMA2"
    write_shards(folder, projector_tensors() | {"lm_head.weight": torch.zeros(2)}, 2)
    damage(folder)
    with pytest.raises(CheckpointError, match="VideoLLaMA2"):
        connector_weights(folder)


def test_options_take_one_source_per_part() -> None:
    with pytest.raises(ValueError, match="give one of from_pretrained, videollama2, open_clip and architecture"):
        PartOptions(videollama2="a", from_pretrained="b")
    with pytest.raises(ValueError, match="open_clip has vision towers only"):
        ModelOptions(
            vision_tower=PartOptions(architecture=TOWER),
            language_model=PartOptions(open_clip="ViT-B-32", checkpoint="a.pt"),
        )
