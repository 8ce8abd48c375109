"""Options of the builders whose wrong options are made by SentenceBERT."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from data_builders.distractors.encoder import PACKAGED_MODEL, load_encoder
from data_builders.distractors.pool import TextPool
from data_builders.egobench.options import EgoBenchOptions

EMBEDDINGS_FOLDER = "embeddings"


class DistractorOptions(EgoBenchOptions):
    """Options of every EgoBench builder that makes distractors."""

    encoder: str = PACKAGED_MODEL
    """The SentenceBERT model: a hub name or the folder of a sentence-transformers model (not stated in the paper)."""
    embeddings: Path | None = None
    """Folder that keeps embedded texts, for any number of builds (default: `embeddings` in the output folder)."""


def open_pool(texts: Iterable[str], options: DistractorOptions) -> TextPool:
    """Returns the pool of `texts` with the encoder and the cache that the options name."""
    return TextPool(texts, load_encoder(options.encoder), embeddings_folder(options))


def embeddings_folder(options: DistractorOptions) -> Path:
    """Returns the folder that keeps the embeddings of a build."""
    return options.embeddings or options.out / EMBEDDINGS_FOLDER
