"""From rows and seeds to a graph of runs, in which equal runs are one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.questions import DataOptions, question_files
from exo2ego import provenance
from exo2ego.errors import DataError
from exo2ego.storage import hash_file, hash_text
from scripts.ablations.suites import BaseSet, NamedSuite, Step, as_overrides, evaluation_step, training_step

WHOLE_FILE_BYTES = 64 << 20
"""Larger files of a folder of weights stand in a key by their size and three pieces: hashing 14 GB takes minutes."""
PIECE_BYTES = 1 << 20
EVALUATION_PLACES = ("model", "output", "data", "max_failure_rate")
"""What may differ between equal evaluations; the questions are compared by content."""


@dataclass(frozen=True)
class Run:
    """One command of the plan and what it stands for."""

    key: str
    """SHA-256 of everything that decides its outcome."""
    name: str
    """Folder name: step and the beginning of the key."""
    module: str
    file: Path
    overrides: tuple[str, ...]
    output: Path
    parent: str | None
    """Name of the run it builds on."""
    level: int
    """Runs of a level need only runs of lower ones."""
    tables: tuple[str, ...]
    """Files that it reads and whose content is in the key."""

    @property
    def is_evaluation(self) -> bool:
        """Returns whether it answers questions instead of training."""
        return self.module == "eval.egobench"


@dataclass
class Plan:
    """All runs in an order in which parents come first, and who uses them."""

    runs: dict[str, Run] = field(default_factory=dict)
    users: dict[str, list[str]] = field(default_factory=dict)
    """Run name to the suite/row/seed that need it."""
    evaluations: dict[tuple[str, str, int], str] = field(default_factory=dict)
    """(suite, row, seed) to the name of the run that evaluates it."""


class Contents:
    """Hashes of files and folders, each read once; `missing` collects the tables that are not there."""

    def __init__(self) -> None:
        self._hashes: dict[str, str] = {}
        self.missing: list[str] = []

    def of_table(self, path: str) -> str:
        """Returns a table's hash; one that is not there stands by its path and is noted as missing."""
        if not Path(path).is_file():
            if path not in self.missing:
                self.missing.append(path)
            return f"missing {path}"
        return self.of(path)

    def of(self, path: str) -> str:
        """Returns the hash of a file or folder."""
        if path not in self._hashes:
            self._hashes[path] = hash_file(Path(path)) if Path(path).is_file() else _hash_folder(Path(path))
        return self._hashes[path]


def _hash_folder(folder: Path) -> str:
    if (folder / "store.json").is_file():  # a clip store: it names the checksum of every shard
        return hash_file(folder / "store.json")
    # not when and by which command it was made
    names = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != provenance.FILE_NAME)
    return hash_text(json.dumps([[str(path.relative_to(folder)), _digest(path)] for path in names]))


def _digest(path: Path) -> str:
    size = path.stat().st_size
    if size <= WHOLE_FILE_BYTES:
        return hash_file(path)
    with path.open("rb") as stream:
        pieces = [(stream.seek(start), stream.read(PIECE_BYTES))[1] for start in (0, size // 2, size - PIECE_BYTES)]
    return hash_text(f"{size} {b''.join(pieces).hex()}")


def make_plan(
    suites: Sequence[NamedSuite],
    base: BaseSet,
    seeds: Sequence[int],
    out: Path,
    contents: Contents,
    rows: Sequence[str] | None = None,
) -> Plan:
    """Returns the runs of all rows and seeds; `rows` keeps those alone and each suite's reference.

    Raises `ConfigError` for the first row whose configuration is not valid.
    """
    plan = Plan()
    for seed in seeds:
        for named in suites:
            for row_name, row in named.suite.rows.items():
                if rows is not None and row_name not in rows and row_name != named.suite.reference:
                    continue
                parent: Run | None = None
                user = f"{named.name}/{row_name}/seed {seed}"
                for step_name in row.chain:
                    step = training_step(base, row_name, row, step_name, seed)
                    parent = _add(plan, step, parent, out / "runs", contents, user)
                step = evaluation_step(base, row_name, row)
                evaluation = _add(plan, step, parent, out / "evaluations", contents, user)
                plan.evaluations[named.name, row_name, seed] = evaluation.name
    return plan


def _add(plan: Plan, step: Step, parent: Run | None, folder: Path, contents: Contents, user: str) -> Run:
    determines, tables = what_determines(step, contents)
    determines["parent"] = parent.key if parent is not None else None
    key = hash_text(json.dumps(determines, sort_keys=True))
    name = f"{step.name.replace('/', '_')}-{key[:10]}"
    if name not in plan.runs:
        output = folder / name
        places: dict[str, Any] = {"output" if step.module == "eval.egobench" else "output_dir": str(output)}
        if parent is not None:
            places["model" if step.module == "eval.egobench" else "parent"] = str(parent.output)
        overrides = tuple(as_overrides({**step.changes, **places}))
        level = parent.level + 1 if parent is not None else 0
        parent_name = parent.name if parent is not None else None
        plan.runs[name] = Run(key, name, step.module, step.file, overrides, output, parent_name, level, tables)
    if user not in plan.users.setdefault(name, []):
        plan.users[name].append(user)
    return plan.runs[name]


def what_determines(step: Step, contents: Contents) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns everything but the parent that decides a run's outcome, and the files whose content is part of it.

    Names of folders and files are not: what is read counts by its content. Nor is what a run may change when it
    continues (`exo2ego.train.resuming.deciding_values`).
    """
    values = step.config.model_dump(mode="json")
    if step.module == "eval.egobench":
        options = DataOptions.model_validate(values["data"])
        tables = tuple(map(str, question_files(options, values["tasks"])))
        kept = {key: value for key, value in values.items() if key not in EVALUATION_PLACES}
        # as the evaluation itself does: the order of the files does not matter
        kept |= {"content of questions": sorted(contents.of_table(path) for path in tables)}
        store = values["data"]["clip_store"]
    else:
        from exo2ego.train.resuming import deciding_values  # imports torch

        kept = deciding_values(values)
        tables = (values["data"]["table"],)
        kept |= {"content of data.table": contents.of_table(tables[0])}
        store = values["data"]["clip_store"]
    kept = {key: _content(value, contents) for key, value in kept.items()}
    kept["content of clip_store"] = contents.of(store) if store and Path(store).is_dir() else store
    return {"module": step.module, "configuration": kept}, tables


def _content(value: Any, contents: Contents) -> Any:
    """Replaces a path that is there by its content; a hub name stands for itself."""
    if isinstance(value, dict):
        return {key: _content(inner, contents) for key, inner in value.items()}
    if isinstance(value, str) and "/" in value and Path(value).exists():
        return contents.of(value)
    return value


def require_tables(contents: Contents) -> None:
    """Raises `DataError` when a table is not there: its content is part of the keys of the runs that read it."""
    if contents.missing:
        listed = "\n  ".join(contents.missing)
        raise DataError(
            f"{len(contents.missing)} tables do not exist; build them first (docs/ablations.md):\n  {listed}"
        )
