"""Builds an EgoIT source in a test and reads the result back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_builders.source import Source, build_source
from exo2ego.data.conversations import read_conversations
from exo2ego.records import Conversation


def build(source: Source[Any, Any], root: Path, **options: Any) -> tuple[list[Conversation], Mapping[str, Any]]:
    """Returns the conversations and the summary of a build into `out` beside `root` (or the given `out`)."""
    options = {"root": root, "out": root.parent / "out", **options}
    summary = build_source(source, source.options.model_validate(options))
    return list(read_conversations(Path(options["out"]) / f"{source.name}.jsonl")), summary


def load_with_datasets(path: Path, cache: Path) -> Any:
    """Returns the table as the `datasets` library reads it."""
    import datasets

    return datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(cache))


def instruction_file(path: Path, source: str, texts: list[str]) -> Path:
    """Writes an instruction file of one's own."""
    path.write_text(json.dumps({"source": source, "written_by": "a test", "instructions": texts}))
    return path
