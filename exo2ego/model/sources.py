"""Where published weights lie: a folder, or the hub's cache; what is missing is said at once, not after retries."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from exo2ego.errors import CheckpointError, ConfigError, DataError
from exo2ego.storage import read_json

Kind = Literal["model", "config", "tokenizer", "connector"]
"""What is wanted of a folder: everything, what tells the sizes, the tokenizer, or VideoLLaMA2's connector; no more is
fetched."""

PROBE_TIMEOUT_S = 10
SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
PROJECTOR_FILE, PROJECTOR_PREFIX = "mm_projector.bin", "model.mm_projector."
"""Where a VideoLLaMA2 release holds its connector: a `-Base` one in a file, a full one in its shards."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
# weights are fetched in one form; everything else of a repository is small
BESIDE_WEIGHTS = ("*.json", "*.jinja", "tokenizer.model", "LICENSE*", "README.md")
# what `git clone` without git-lfs leaves in place of a large file
LFS_POINTER = b"version https://git-lfs"


def located(source: str, key: str, kind: Kind = "model") -> Path:
    """Returns the folder of a model or tokenizer: a local one, or the hub's cache, filled where there is a network.

    A hub name that is in the cache is never looked up again: its weights cannot change from one stage to the next.
    Raises `ConfigError` naming `key` when there is nothing, and how to get it.
    """
    folder = Path(source).expanduser()
    if not folder.exists():
        if source.startswith((".", "/", "~")) or source.count("/") != 1:
            raise ConfigError(f"{key}: folder {source} does not exist; give a folder or a hub name such as owner/name")
        folder = _from_hub(source, key, kind)
    elif not folder.is_dir():
        raise ConfigError(f"{key}: {source} is a file; give the folder that it lies in")
    if kind in ("model", "config") and not (folder / "config.json").is_file():
        raise ConfigError(
            f"{key}: {source} has no config.json; expected a model folder of transformers (config.json and "
            f"*.safetensors), it holds {_listing(folder)}"
        )
    return folder


def require_whole(folder: Path, kind: Kind = "model") -> None:
    """Raises `CheckpointError` naming every weight file that a model folder lacks, or that is no weight file."""
    files = connector_files(folder) if kind == "connector" else weight_files(folder)
    if not files:
        single = f"{PROJECTOR_FILE} of a VideoLLaMA2 release" if kind == "connector" else SAFETENSORS
        raise CheckpointError(f"{folder}: no weights; expected {single}, or {SAFETENSORS}.index.json and its shards")
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise CheckpointError(f"{folder}: {len(missing)} of {len(files)} weight files are missing {missing[:3]}")
    for path in files:
        with path.open("rb") as stream:
            if stream.read(len(LFS_POINTER)) == LFS_POINTER:
                raise CheckpointError(f"{path}: a git-lfs pointer, not the weights: run `git lfs pull` in {folder}")


def weight_files(folder: Path) -> list[Path]:
    """Returns the files that hold a model folder's weights, present or not; safetensors go before pickles.

    Raises `CheckpointError` for an index that cannot be read.
    """
    for name in (SAFETENSORS, PICKLE):
        if (folder / name).is_file():
            return [folder / name]
        if (folder / f"{name}.index.json").is_file():
            return [folder / shard for shard in sorted(set(shard_of_tensor(folder, name).values()))]
    return []


def connector_files(folder: Path) -> list[Path]:
    """Returns the files that hold the connector of a VideoLLaMA2 release, present or not; none of anything else."""
    if (folder / PROJECTOR_FILE).is_file():
        return [folder / PROJECTOR_FILE]
    if not (folder / f"{SAFETENSORS}.index.json").is_file():
        return []
    shards = {shard for name, shard in shard_of_tensor(folder).items() if name.startswith(PROJECTOR_PREFIX)}
    return [folder / shard for shard in sorted(shards)]


def shard_of_tensor(folder: Path, name: str = SAFETENSORS) -> dict[str, str]:
    """Returns the file of every tensor of a sharded checkpoint; raises `CheckpointError` for a damaged index."""
    index = folder / f"{name}.index.json"
    try:
        shards: dict[str, str] = read_json(index, "index of a sharded checkpoint")["weight_map"]
        if not all(isinstance(shard, str) and Path(shard).name == shard for shard in shards.values()):
            raise CheckpointError(f"{index}: names files outside its folder")
    except (DataError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: is no index of a sharded checkpoint: {error}") from error
    return shards


def _from_hub(source: str, key: str, kind: Kind) -> Path:
    try:
        cached = Path(snapshot_download(source, local_files_only=True))
        if _is_complete(cached, kind):
            return cached
    except LocalEntryNotFoundError:
        pass
    try:
        patterns = _wanted(_files_on_hub(source), kind)
        folder = Path(snapshot_download(source, allow_patterns=list(patterns)))
        shards = [path.name for path in connector_files(folder)] if kind == "connector" else []
        if shards and shards != [PROJECTOR_FILE]:  # only the index, just fetched, tells which ones
            folder = Path(snapshot_download(source, allow_patterns=shards))
        return folder
    except (urllib.error.URLError, TimeoutError, LocalEntryNotFoundError) as error:
        reason = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else f"{constants.ENDPOINT} cannot be reached"
        raise ConfigError(
            f"{key}: there is no folder {source}, the hub's cache {constants.HF_HUB_CACHE} does not hold it, and "
            f"{reason}; where there is a network, run `hf download {source} --local-dir weights/{Path(source).name}`, "
            f"copy that folder here and set {key}=weights/{Path(source).name}"
        ) from error
    except HfHubHTTPError as error:
        raise ConfigError(
            f"{key}: there is no folder {source}, and the hub does not give it out: {str(error).splitlines()[0]}; "
            "check the name, or accept its licence on the hub and run `hf auth login`"
        ) from error


def _is_complete(folder: Path, kind: Kind) -> bool:
    if kind == "tokenizer":
        return any((folder / name).is_file() for name in TOKENIZER_FILES)
    if kind == "connector":
        files = connector_files(folder)
        return bool(files) and all(path.is_file() for path in files)
    has_config = (folder / "config.json").is_file()
    files = weight_files(folder) if kind == "model" else []
    return has_config and (kind == "config" or (bool(files) and all(path.is_file() for path in files)))


def _files_on_hub(source: str) -> list[str]:
    """Returns the names of a repository's files; one request without retries, so that a missing network shows at once.

    Empty when the hub wants to know who asks; raises `URLError` when it cannot be reached.
    """
    if constants.is_offline_mode():
        raise urllib.error.URLError("offline mode")
    try:
        address = f"{constants.ENDPOINT}/api/models/{source}"
        with urllib.request.urlopen(address, timeout=PROBE_TIMEOUT_S) as answer:
            return [entry["rfilename"] for entry in json.load(answer)["siblings"]]
    except urllib.error.HTTPError:  # private or unknown: the download itself says which
        return []


def _wanted(files: Sequence[str], kind: Kind) -> Sequence[str]:
    if kind != "model":
        return (*BESIDE_WEIGHTS, PROJECTOR_FILE) if kind == "connector" else BESIDE_WEIGHTS
    has_pickle = PICKLE in files or f"{PICKLE}.index.json" in files
    has_safetensors = SAFETENSORS in files or f"{SAFETENSORS}.index.json" in files
    name = PICKLE if has_pickle and not has_safetensors else SAFETENSORS
    stem, suffix = name.split(".")
    return (*BESIDE_WEIGHTS, name, f"{stem}-*-of-*.{suffix}")


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return f"{', '.join(names[:5])}{' …' if len(names) > 5 else ''}" if names else "nothing"
