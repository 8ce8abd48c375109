"""Where weights come from: folders, the hub's cache, and a hub that cannot be reached, said at once."""

from __future__ import annotations

import io
import json
import time
import urllib.error
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from exo2ego.errors import CheckpointError, ConfigError
from exo2ego.model.sources import located, require_whole, shard_of_tensor, weight_files
from tests.conftest import RunPython
from tests.model.published_checkpoints import write_clip

NAME = "openai/clip-vit-large-patch14-336"
KEY = "model.vision_tower.from_pretrained"

IN_FRESH_PROCESS = """
import sys
from exo2ego.model.sources import located
from exo2ego.errors import ConfigError
try:
    located("openai/clip-vit-large-patch14-336", "model.vision_tower.from_pretrained")
except ConfigError as error:
    print(error)
"""


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests themselves run offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """An empty cache and a network that is not there; returns what was asked for."""
    asked: list[dict[str, Any]] = []

    def download(name: str, **options: Any) -> str:
        asked.append({"name": name, **options})
        raise LocalEntryNotFoundError("not in the cache")

    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("exo2ego.model.sources.snapshot_download", download)
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    return asked


def test_a_hub_that_cannot_be_reached_is_said_at_once(hub: list[dict[str, Any]]) -> None:
    message = (
        rf"{KEY}: there is no folder {NAME}, the hub's cache .* does not hold it, and .* cannot be reached; "
        rf"where there is a network, run `hf download {NAME} --local-dir weights/clip-vit-large-patch14-336`, "
        rf".* set {KEY}=weights/clip-vit-large-patch14-336"
    )
    began = time.monotonic()
    with pytest.raises(ConfigError, match=message):
        located(NAME, KEY)
    assert [call.get("local_files_only") for call in hub] == [True], "nothing is retried"
    assert time.monotonic() - began < 30, "the libraries' own retries take that long"


def test_offline_mode_is_said_and_asks_nobody(tmp_path: Path, run_python: RunPython) -> None:
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    code = f"import os; os.environ.update({environment!r})\n{IN_FRESH_PROCESS}"
    done = run_python("-c", code)
    assert "HF_HUB_OFFLINE is set" in done.stdout, done.stderr
    assert f"hf download {NAME}" in done.stdout


@pytest.mark.parametrize("source", ["./nowhere", "/a/b", "~/nowhere/at/all", "weights", "a/b/c"])
def test_a_folder_with_a_typing_error_is_no_hub_name(hub: list[dict[str, Any]], source: str) -> None:
    with pytest.raises(ConfigError, match=f"{KEY}: folder {source} does not exist"):
        located(source, KEY)
    assert not hub


def test_a_file_or_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()
    with pytest.raises(ConfigError, match=r"model.bin is a file; give the folder that it lies in"):
        located(str(tmp_path / "model.bin"), KEY)
    with pytest.raises(ConfigError, match=r"has no config.json; .* it holds model.bin"):
        located(str(tmp_path), KEY)
    assert located(str(tmp_path), KEY, "tokenizer") == tmp_path


def test_what_is_in_the_cache_is_not_looked_up_again(
    hub: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip(tmp_path)
    monkeypatch.setattr("exo2ego.model.sources.snapshot_download", lambda name, **options: str(tmp_path))
    assert located(NAME, KEY) == tmp_path
    (tmp_path / "model.safetensors").unlink()
    assert located(NAME, KEY, "config") == tmp_path
    with pytest.raises(ConfigError, match="cannot be reached"):  # a download that broke off
        located(NAME, KEY)


@pytest.mark.parametrize(
    ("files", "kind", "wanted", "unwanted"),
    [
        (["model.safetensors", "pytorch_model.bin"], "model", "model.safetensors", "pytorch_model.bin"),
        (["config.json", "pytorch_model.bin"], "model", "pytorch_model.bin", "model.safetensors"),
        (["model.safetensors.index.json"], "model", "model-*-of-*.safetensors", "pytorch_model.bin"),
        (["model.safetensors", "tokenizer.json"], "tokenizer", "*.json", "model.safetensors"),
        (["model.safetensors", "config.json"], "config", "*.json", "model.safetensors"),
    ],
)
def test_weights_are_fetched_in_one_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], kind: Any, wanted: str, unwanted: str
) -> None:
    asked: list[list[str]] = []

    def download(name: str, local_files_only: bool = False, allow_patterns: Any = ()) -> str:
        if local_files_only:
            raise LocalEntryNotFoundError("not in the cache")
        asked.append(allow_patterns)
        (tmp_path / "config.json").touch()
        return str(tmp_path)

    answer = json.dumps({"siblings": [{"rfilename": name} for name in files]}).encode()
    monkeypatch.setattr("exo2ego.model.sources.snapshot_download", download)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: io.BytesIO(answer))
    assert located(NAME, KEY, kind) == tmp_path
    assert wanted in asked[0]
    assert unwanted not in asked[0]


def test_the_files_of_a_folder(tmp_path: Path) -> None:
    assert weight_files(tmp_path) == []
    (tmp_path / "pytorch_model.bin").touch()
    assert [path.name for path in weight_files(tmp_path)] == ["pytorch_model.bin"]
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "b.safetensors", "c": "b.safetensors"}}))
    assert [path.name for path in weight_files(tmp_path)] == ["b.safetensors"]
    for text in ("{", "[]", '{"weight_map": []}', '{"weight_map": {"a": "../b"}}', '{"weight_map": {"a": 1}}'):
        index.write_text(text)
        with pytest.raises(CheckpointError, match=r"model.safetensors.index.json"):
            shard_of_tensor(tmp_path)


@pytest.mark.parametrize("is_base", [True, False], ids=["base", "full"])
def test_of_a_videollama2_release_only_the_connector_is_fetched(
    is_base: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    asked: list[list[str]] = []

    def download(name: str, local_files_only: bool = False, allow_patterns: Any = ()) -> str:
        if local_files_only and not folder.exists():
            raise LocalEntryNotFoundError("not in the cache")
        if not local_files_only:
            asked.append(list(allow_patterns))
        folder.mkdir(exist_ok=True)
        if is_base:
            (folder / "mm_projector.bin").touch()
        else:
            shards = {"model.norm.weight": "a.safetensors", "model.mm_projector.readout.0.bias": "b.safetensors"}
            (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
        if "b.safetensors" in allow_patterns:
            (folder / "b.safetensors").touch()
        return str(folder)

    monkeypatch.setattr("exo2ego.model.sources.snapshot_download", download)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: io.BytesIO(b'{"siblings": []}'))
    assert located("DAMO-NLP-SG/release", "model.videollama2", "connector") == folder
    assert "mm_projector.bin" in asked[0]
    assert "model-*-of-*.safetensors" not in asked[0]
    assert asked[1:] == ([] if is_base else [["b.safetensors"]])
    num_asked = len(asked)
    assert located("DAMO-NLP-SG/release", "model.videollama2", "connector") == folder
    assert len(asked) == num_asked, "what is in the cache is not fetched again"


def test_a_folder_without_a_connector(tmp_path: Path) -> None:
    write_clip(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"model.norm.weight": "a.safetensors"}}')
    with pytest.raises(CheckpointError, match=r"no weights; expected mm_projector.bin of a VideoLLaMA2 release"):
        require_whole(tmp_path, "connector")
    (tmp_path / "mm_projector.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(CheckpointError, match=r"mm_projector.bin: a git-lfs pointer"):
        require_whole(tmp_path, "connector")
