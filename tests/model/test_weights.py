"""Weight files: nothing loaded that does not fit exactly, damage named, and counts of what was loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from exo2ego.errors import CheckpointError
from exo2ego.model.connector import Connector, build_connector
from exo2ego.model.weights import load_exactly, read_pickled_tensors, read_tensors, tell_loaded


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


def test_reading_tensors_names_a_missing_and_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "trained.safetensors"
    with pytest.raises(CheckpointError, match="is missing"):
        read_tensors(path)
    save_file({"a": torch.arange(3)}, path)
    assert read_tensors(path)["a"].tolist() == [0, 1, 2]
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match="is damaged"):
        read_tensors(path)


def test_a_pickle_of_tensors_and_plain_values_is_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    torch.save({"a": torch.arange(3), "epoch": 2}, path)
    held = read_pickled_tensors(path)
    assert (held["a"].tolist(), held["epoch"]) == ([0, 1, 2], 2)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_pickled_tensors(tmp_path / "nowhere.bin")


def test_what_was_left_out_is_counted_by_kind(capsys: pytest.CaptureFixture[str]) -> None:
    left_out = ["encoder.layers.23.mlp.fc1.bias", "encoder.layers.23.mlp.fc1.weight", "post_layernorm.bias"]
    left_out += ["text_model.encoder.layers.0.mlp.fc1.bias", "vision_model.post_layernorm.weight", "logit_scale"]
    tell_loaded("vision tower", "a/[folder]", 3, 4, left_out)
    assert capsys.readouterr().out == (
        "loaded 3 / expected 4 tensors: vision tower from a/[folder]; left out: 2 layers.23, 2 post_layernorm, "
        "1 text_model, 1 logit_scale\n"
    )
