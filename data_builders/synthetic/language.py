"""The generated world as text alone, for a language model that is to know its words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from exo2ego.storage import read_json


def corpus_lines(root: Path, seed: int = 0) -> Iterator[str]:
    """Yields the narrations of the training takes in random order; raises `DataError` if the files are missing."""
    takes = {take["take_uid"] for take in read_json(root / "takes.json", "list of takes")}
    splits = read_json(root / "annotations" / "splits.json", "splits")["take_uid_to_split"]
    described = read_json(root / "annotations" / "atomic_descriptions_train.json", "atomic descriptions")["annotations"]
    lines = [
        description["text"]
        for uid, annotations in described.items()
        if uid in takes and splits[uid] == "train"
        for annotation in annotations
        if not annotation["rejected"]
        for description in annotation["descriptions"]
    ]
    for index in np.random.default_rng(seed).permutation(len(lines)):
        yield lines[index]
