"""What is compared: suites (a table of the paper, row by row) on base sets (the configurations that rows change)."""

from __future__ import annotations

import difflib
import importlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from exo2ego.config import Config, load_config, merge, parse_yaml, read_config_file, validate_config
from exo2ego.errors import ConfigError
from exo2ego.records import AnswerMode
from exo2ego.train.options import StageConfig

BASES = Path("stages/configs/ablations/bases")
STAGES = ("init_ego", "stage1", "stage2", "stage3")
STEPS = (*STAGES, *(f"control/{stage}" for stage in STAGES))
CHAIN = list(STAGES)


def _require_steps(where: str, names: Iterable[str]) -> None:
    """Raises `ValueError` for a name that is no step, with the nearest one."""
    for name in names:
        if name not in STEPS:
            near = difflib.get_close_matches(name, STEPS, n=1)
            hint = f" (did you mean `{near[0]}`?)" if near else ""
            raise ValueError(f"{where}: `{name}` is no step; steps: {', '.join(STAGES)}, control/STAGE{hint}")


class Row(Config):
    """One row of a table: what is trained in which order, what is changed, how it is asked."""

    label: str
    """The row in words, for the table."""
    paper: float | None = None
    """The paper's average, percent; null where it gives none."""
    paper_tasks: dict[str, float] = Field(default_factory=dict)
    """The paper's number per task, percent, where it gives them."""
    chain: list[str] = Field(default=CHAIN, min_length=1)
    """Steps in order, each on the one before; the last one is evaluated. `control/stage3` is the base's control."""
    changes: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Step to the configuration keys that differ from the base."""
    data: dict[str, str] = Field(default_factory=dict)
    """Step to the name of a data set of the base, read instead of its usual one."""
    evaluation: dict[str, Any] = Field(default_factory=dict)
    """Keys of the evaluation that differ from the base."""

    @model_validator(mode="after")
    def _changes_are_of_the_chain(self) -> Row:
        for section, steps in (("changes", self.changes), ("data", self.data)):
            for step in steps:
                if step not in self.chain:
                    near = difflib.get_close_matches(step, self.chain, n=1)
                    hint = f" (did you mean `{near[0]}`?)" if near else ""
                    raise ValueError(f"{section}.{step}: is no step of this row's chain {', '.join(self.chain)}{hint}")
        return self


class Suite(Config):
    """A table."""

    title: str
    """What the table varies."""
    source: str
    """Where its numbers come from, for example Exo2Ego Table 7."""
    measure: str
    """What the paper's average is of."""
    reference: str
    """The row that the others are compared with."""
    bases: list[str] = Field(min_length=1)
    """Base sets that it is made for."""
    rows: dict[str, Row] = Field(min_length=2)
    """Rows by name, in the paper's order."""

    @model_validator(mode="after")
    def _reference_is_a_row(self) -> Suite:
        if self.reference not in self.rows:
            raise ValueError(f"reference: `{self.reference}` is no row; rows: {', '.join(self.rows)}")
        return self


class EvaluationOptions(Config):
    """How a finished row is asked."""

    config: Path
    """Configuration of eval.egobench."""
    mode: AnswerMode = "likelihood"
    """Answer mode whose accuracy enters the table."""
    changes: dict[str, Any] = Field(default_factory=dict)
    """Keys that differ from that file, for example where the questions lie."""
    after: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Last step of a chain to the keys that differ then, for example the plain form before stage 3."""


class BaseSet(Config):
    """The configurations that rows change."""

    stages: Path
    """Folder with one configuration per step: STEP.yaml."""
    changes: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Step to the keys that differ from its file in every row, for example where your data lie."""
    once: list[str] = Field(default_factory=list)
    """Steps trained once for all seeds, with the file's own seed."""
    data: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Name to keys of a stage's `data` section, for rows that read something else."""
    evaluation: EvaluationOptions
    """How a finished row is asked."""

    @model_validator(mode="after")
    def _names_are_steps(self) -> BaseSet:
        _require_steps("changes", self.changes)
        _require_steps("once", self.once)
        _require_steps("evaluation.after", self.evaluation.after)
        return self


@dataclass(frozen=True)
class NamedSuite:
    """A suite and the name of its file, which names its table's folder."""

    name: str
    suite: Suite


def read_suite(path: Path) -> NamedSuite:
    """Reads a suite; raises `ConfigError` naming every fault."""
    return NamedSuite(path.stem, load_config(Suite, path))


def read_suites(paths: Sequence[Path]) -> list[NamedSuite]:
    """Reads suites; raises `ConfigError` where two files of one name would write the same table."""
    by_name: dict[str, Path] = {}
    for path in paths:
        if path.stem in by_name:
            raise ConfigError(
                f"--suite {by_name[path.stem]} {path}: both would write the table `{path.stem}`; give a file once, "
                "or rename one"
            )
        by_name[path.stem] = path
    return [read_suite(path) for path in paths]


def find_base(name: str) -> Path:
    """Returns the file of a shipped base set, or the file itself where a path is given; raises `ConfigError`."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else BASES / f"{name}.yaml"
    if path.is_file():
        return path
    shipped = sorted(file.stem for file in BASES.glob("*.yaml"))
    near = difflib.get_close_matches(name, shipped, n=1)
    hint = f"; did you mean `{near[0]}`?" if near else ""
    raise ConfigError(f"--base {name}: no such base set ({path} does not exist); shipped: {', '.join(shipped)}{hint}")


def require_made_for(named: NamedSuite, base: str) -> None:
    """Raises `ConfigError` when a shipped base is not one that the suite names; your own base file is not checked."""
    if not base.endswith((".yaml", ".yml")) and base not in named.suite.bases:
        raise ConfigError(
            f"{named.name}: is not made for --base {base}, but for {', '.join(named.suite.bases)}; "
            "or give a base file of your own (docs/ablations.md)"
        )


@dataclass(frozen=True)
class Step:
    """One command of a row, resolved."""

    name: str
    module: str
    file: Path
    changes: dict[str, Any]
    """What stands on the command line beside the file."""
    config: Config
    """What the command will run with, but for its output folder and its parent."""


def training_step(base: BaseSet, row_name: str, row: Row, step: str, seed: int) -> Step:
    """Resolves one training step of a row; raises `ConfigError` naming row, step and key."""
    module = f"stages.{Path(step).name}"
    try:
        _require_steps("chain", [step])
    except ValueError as error:
        raise ConfigError(f"row {row_name}: {error}") from error
    data_name = row.data.get(step)
    if data_name is not None and data_name not in base.data:
        raise ConfigError(
            f"row {row_name}: data.{step}: this base has no data set `{data_name}`; it has: "
            f"{', '.join(base.data) or 'none'}; give it one under `data` of a base file of your own"
        )
    changes = merge(base.changes.get(step, {}), {"data": base.data[data_name]} if data_name else {})
    changes = merge(changes, row.changes.get(step, {}))
    if step not in base.once:
        changes = merge(changes, {"seed": seed})
    config_class: type[StageConfig] = importlib.import_module(module).CONFIG
    return _resolve(step, module, base.stages / f"{step}.yaml", changes, config_class, f"row {row_name}: {step}")


def evaluation_step(base: BaseSet, row_name: str, row: Row) -> Step:
    """Resolves the evaluation of a row; raises `ConfigError` naming row and key."""
    options = base.evaluation
    changes = merge(merge(options.changes, options.after.get(row.chain[-1], {})), row.evaluation)
    config_class = importlib.import_module("eval.egobench").CONFIG
    step = _resolve("evaluation", "eval.egobench", options.config, changes, config_class, f"row {row_name}: evaluation")
    modes = step.config.model_dump()["modes"]
    if options.mode not in modes:
        raise ConfigError(f"row {row_name}: evaluation.modes {modes} has not `{options.mode}`, which the table shows")
    return step


def _resolve(
    name: str, module: str, file: Path, changes: dict[str, Any], config_class: type[Config], where: str
) -> Step:
    config = validate_config(config_class, merge(read_config_file(file), changes), f"{where} ({file} with changes)")
    return Step(name, module, file, changes, config)


def as_overrides(changes: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Returns `key=value` texts that a command's parser reads back as these values.

    A section with a key that holds a dot, as the patterns of `optim.groups`, is one value in YAML: the parser would
    split the key.
    """
    texts: list[str] = []
    for key, value in changes.items():
        if isinstance(value, Mapping) and value and not any("." in inner for inner in value):
            texts += as_overrides(value, f"{prefix}{key}.")
        else:
            texts.append(f"{prefix}{key}={_one_line(value)}")
    return texts


def _one_line(value: Any) -> str:
    """Returns a value as YAML reads it: a text as it is where that is safe, everything else as JSON."""
    if isinstance(value, str) and _reads_as_itself(value):
        return value
    return json.dumps(value, ensure_ascii=False)


def _reads_as_itself(text: str) -> bool:
    try:
        return bool(parse_yaml(text, "override") == text)
    except ConfigError:
        return False
