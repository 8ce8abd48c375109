"""Weight files: VideoLLaMA2's connector under its published names, and nothing loaded that does not fit exactly."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from exo2ego.errors import CheckpointError
from exo2ego.model.connector import Connector, build_connector
from exo2ego.model.options import ConnectorOptions
from exo2ego.model.weights import connector_weights_of_videollama2, load_exactly, read_tensors
from tests.tiny_models import STAGE2, TOWER_WIDTH, tiny_model

TOKEN_DIM = 48
PREFIX = "model.mm_projector."
PUBLISHED_NAMES = [
    *(
        f"{stage}.b{block}.{layer}.{tensor}"
        for stage in ("s1", "s2")
        for block in (1, 2, 3, 4)
        for layer in ("conv1", "conv2", "conv3")
        for tensor in ("conv.weight", "bn.weight", "bn.bias")
    ),
    *(
        f"{stage}.b{block}.se.fc{layer}.{tensor}"
        for stage in ("s1", "s2")
        for block in (1, 2, 3, 4)
        for layer in (1, 2)
        for tensor in ("weight", "bias")
    ),
    *(f"s1.b1.downsample.{tensor}" for tensor in ("conv.weight", "bn.weight", "bn.bias")),
    *(f"{layer}.{tensor}" for layer in ("sampler.0", "readout.0", "readout.2") for tensor in ("weight", "bias")),
]


def published_weights(depth: int = 1) -> dict[str, Tensor]:
    """What VideoLLaMA2's files hold: bf16 under the projector's prefix."""
    torch.manual_seed(7)
    connector = build_connector("stc", TOWER_WIDTH, TOKEN_DIM, depth)
    return {PREFIX + name: tensor.bfloat16() for name, tensor in connector.state_dict().items()}


def write_base(folder: Path, weights: Mapping[str, object]) -> Path:
    """A `-Base` release."""
    folder.mkdir(exist_ok=True)
    torch.save(dict(weights), folder / "mm_projector.bin")
    return folder


def write_shards(folder: Path, weights: Mapping[str, Tensor]) -> Path:
    """A full release: the projector's tensors in two shards among others."""
    folder.mkdir(exist_ok=True)
    everything = {**weights, "lm_head.weight": torch.zeros(2)}
    shard_of = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(everything)}
    for shard in set(shard_of.values()):
        save_file({name: everything[name] for name in everything if shard_of[name] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shard_of}))
    return folder


def test_names_are_the_113_published_ones() -> None:
    names = build_connector("stc", 8, 16, depth=4).state_dict().keys()
    assert len(PUBLISHED_NAMES) == 113
    assert sorted(names) == sorted(PUBLISHED_NAMES)


@pytest.mark.parametrize("write", [write_base, write_shards])
@pytest.mark.parametrize("sharing", ["shared", "per_branch"])
def test_videollama2_starts_every_connector(tmp_path: Path, write: object, sharing: str) -> None:
    weights = published_weights()
    folder = write(tmp_path / "VideoLLaMA2", weights)  # type: ignore[operator]
    options = ConnectorOptions(depth=1, sharing=sharing)  # type: ignore[arg-type]
    model = tiny_model(STAGE2, connector=options, videollama2=str(folder)).model
    connectors = [model.connector] + ([model.connector_exo] if sharing == "per_branch" else [])
    for connector in connectors:
        for name, tensor in connector.state_dict().items():
            assert torch.equal(tensor, weights[PREFIX + name].float())


def test_channel_concatenation_keeps_videollama2s_shapes(tmp_path: Path) -> None:
    folder = write_base(tmp_path / "VideoLLaMA2", published_weights())
    model = tiny_model(STAGE2, fusion="channel_concat", videollama2=str(folder)).model
    assert torch.equal(model.connector.readout[2].weight, published_weights()[f"{PREFIX}readout.2.weight"].float())


def test_a_connector_of_another_kind_is_refused(tmp_path: Path) -> None:
    folder = write_base(tmp_path / "VideoLLaMA2", published_weights())
    with pytest.raises(CheckpointError, match=r"2 extra .*sampler.0.bias"):
        tiny_model(connector=ConnectorOptions(kind="stp", depth=1), videollama2=str(folder))


def filled(connector: Connector) -> dict[str, Tensor]:
    return {name: torch.ones_like(tensor) for name, tensor in connector.state_dict().items()}


def test_every_misfit_is_listed_and_nothing_is_loaded() -> None:
    connector = build_connector("mlp", 8, 16, depth=1)
    before = {name: tensor.clone() for name, tensor in connector.state_dict().items()}
    weights = filled(connector)
    weights["readout.3.weight"] = weights.pop("readout.2.weight")
    weights["readout.0.weight"] = torch.ones(16, 9)
    message = (
        r"here: loaded 0 / expected 4 tensors; 1 missing \['readout.2.weight'\], 1 extra \['readout.3.weight'\], "
        r"1 of another shape \['readout.0.weight: file \(16, 9\), model \(16, 8\)'\]"
    )
    with pytest.raises(CheckpointError, match=message):
        load_exactly(connector, weights, where="here")
    for name, tensor in connector.state_dict().items():
        assert torch.equal(tensor, before[name])


class RunsOnLoad:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.open, (str(self.path), os.O_CREAT)


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    proof = tmp_path / "the code was run"
    folder = write_base(tmp_path / "VideoLLaMA2", {f"{PREFIX}readout.0.weight": RunsOnLoad(proof)})
    with pytest.raises(CheckpointError, match="code in a file is never run"):
        connector_weights_of_videollama2(folder)
    assert not proof.exists()


def test_a_folder_without_a_projector_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected mm_projector.bin or model.safetensors.index.json"):
        connector_weights_of_videollama2(tmp_path)
    write_base(tmp_path, {"model.norm.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"no tensor starts with model.mm_projector."):
        connector_weights_of_videollama2(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_cut_projector_is_an_error(tmp_path: Path, share: float) -> None:
    path = write_base(tmp_path, published_weights()) / "mm_projector.bin"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError):
        connector_weights_of_videollama2(tmp_path)


def test_a_projector_that_is_no_table_of_tensors_is_an_error(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "mm_projector.bin")
    with pytest.raises(CheckpointError, match="cannot be read"):
        connector_weights_of_videollama2(tmp_path)


def cut_index(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text()[:-40])


def remove_shard(folder: Path) -> None:
    next(folder.glob("*.safetensors")).unlink()


def cut_shard(folder: Path) -> None:
    shard = next(folder.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-40])


@pytest.mark.parametrize("damage", [cut_index, remove_shard, cut_shard])
def test_damaged_shards_are_an_error(tmp_path: Path, damage: object) -> None:
    folder = write_shards(tmp_path / "VideoLLaMA2", published_weights())
    damage(folder)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match="VideoLLaMA2"):
        connector_weights_of_videollama2(folder)


def test_reading_tensors_names_a_missing_and_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "trained.safetensors"
    with pytest.raises(CheckpointError, match="is missing"):
        read_tensors(path)
    save_file({"a": torch.arange(3)}, path)
    assert read_tensors(path)["a"].tolist() == [0, 1, 2]
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match="is damaged"):
        read_tensors(path)
