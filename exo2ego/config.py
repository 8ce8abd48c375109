"""Closed, typed configuration: YAML plus dotted overrides, every fault reported at once with the nearest valid key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from exo2ego.errors import ConfigError


class Config(BaseModel):
    """Base of every configuration section: unknown keys are refused, values frozen, field docstrings are the help."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True, protected_namespaces=()
    )


ConfigType = TypeVar("ConfigType", bound=Config)


class _Loader(yaml.SafeLoader):
    """YAML with `2e-5` read as a number (PyYAML reads it as text) and repeated keys refused."""


class _Dumper(yaml.SafeDumper):
    """YAML that quotes a text like `2e-5` and the rarer line breaks, so that `_Loader` reads back the same text."""


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = '"' if any(line_break in text for line_break in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


for _yaml_side in (_Loader, _Dumper):
    _yaml_side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
        list("-+0123456789."),
    )


def _mapping_without_repeats(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[str] = set()
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"line {key_node.start_mark.line + 1}: a key must be a plain name")
        if key_node.value in seen:
            raise ConfigError(f"line {key_node.start_mark.line + 1}: key `{key_node.value}` is given twice")
        seen.add(key_node.value)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping_without_repeats)


def parse_yaml(text: str, where: str) -> Any:
    """Parses YAML text; raises `ConfigError` naming `where` and the line."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        position = f" line {line + 1}" if line is not None else ""
        raise ConfigError(f"{where}:{position} is not valid YAML: {getattr(error, 'problem', error)}") from error
    except (ConfigError, ValueError) as error:  # ValueError: text shaped like a date that is none, as 2026-02-30
        raise ConfigError(f"{where}: {error}") from error


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `base` with `changes` laid over it, section by section."""
    merged = dict(base)
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def read_config_file(path: Path) -> dict[str, Any]:
    """Reads a YAML file; its `extends: other.yaml` (relative to the file) is read first and laid under it.

    Raises `ConfigError` when a file is missing, is not a mapping, or extends itself.
    """
    return _read_chain(path, ())


def _read_chain(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    resolved = path.resolve()
    if resolved in above:
        raise ConfigError(f"{path}: extends itself through {' -> '.join(str(p) for p in (*above, resolved))}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        advice = f"extended by {above[-1]}" if above else "give an existing YAML file"
        raise ConfigError(f"{path}: cannot be read ({reason}); {advice}") from error
    values = parse_yaml(text, str(path))
    if values is None:  # an empty file, or comments only
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values, got {type(values).__name__}")
    parent = values.pop("extends", None)
    if parent is None:
        return values
    if not isinstance(parent, str):
        raise ConfigError(f"{path}: extends: expected the path of one YAML file, got {parent!r}")
    return merge(_read_chain(path.parent / parent, (*above, resolved)), values)


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Turns `["loss.kl.weight=0"]` into nested mappings; raises `ConfigError` listing every malformed override."""
    values: dict[str, Any] = {}
    faults: list[str] = []
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not all(key.split(".")) or key.startswith("-"):
            faults.append(f"`{override}`: expected key=value, for example `seed=1` or `loss.kl.weight=0`")
            continue
        try:
            nested = parse_yaml(text, f"`{override}`")
        except ConfigError as error:
            faults.append(str(error))
            continue
        for part in reversed(key.split(".")):
            nested = {part: nested}
        values = merge(values, nested)
    if faults:
        raise ConfigError("command line: " + "\n  ".join(faults))
    return values


def load_config(config_class: type[ConfigType], path: Path | None, overrides: Sequence[str] = ()) -> ConfigType:
    """Reads, overrides and validates a configuration; raises `ConfigError` with all faults, one per line."""
    values = read_config_file(path) if path is not None else {}
    source = str(path) if path is not None else "command line"
    return validate_config(config_class, merge(values, parse_overrides(overrides)), source)


def validate_config(config_class: type[ConfigType], values: Mapping[str, Any], source: str) -> ConfigType:
    """Validates plain values against `config_class`; raises `ConfigError` naming `source` with all faults at once."""
    try:
        return config_class.model_validate(values)
    except ValidationError as error:
        faults = [_describe(fault, config_class) for fault in error.errors(include_url=False)]
        plural = "problem" if len(faults) == 1 else "problems"
        raise ConfigError(f"{source}: {len(faults)} {plural}\n  " + "\n  ".join(faults)) from error


def _describe(fault: Mapping[str, Any], config_class: type[Config]) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = [name for name, _ in fields_of(config_class)]
        nearest = _nearest_key(key, known)
        hint = f" (did you mean `{nearest}`?)" if nearest else ""
        return f"{key}: unknown key{hint}"
    if fault["type"] == "missing":
        return f"{key}: is required"
    message = fault["msg"].removeprefix("Value error, ")
    if not key:
        return message
    return f"{key}: {message}, got {fault['input']!r}" if not isinstance(fault["input"], dict) else f"{key}: {message}"


def _nearest_key(key: str, known: Sequence[str]) -> str | None:
    section, _, leaf = key.rpartition(".")
    siblings = [name for name in known if name.rpartition(".")[0] == section]
    for name in siblings:  # lr for learning_rate
        if leaf == "".join(word[0] for word in name.rpartition(".")[2].split("_")):
            return name
    for candidates in (siblings, known):
        found = difflib.get_close_matches(key, candidates, n=1, cutoff=0.6)
        if found:
            return found[0]
    by_leaf = {name.rpartition(".")[2]: name for name in known}
    found = difflib.get_close_matches(leaf, list(by_leaf), n=1, cutoff=0.6)
    return by_leaf[found[0]] if found else None


def _section(annotation: Any) -> type[Config] | None:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return annotation
    for argument in get_args(annotation):
        if isinstance(argument, type) and issubclass(argument, Config):
            return argument
    return None


def fields_of(config_class: type[Config], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, pydantic field) for every leaf and section of a configuration class."""
    for name, field in config_class.model_fields.items():
        key = f"{prefix}{name}"
        yield key, field
        section = _section(field.annotation)
        if section is not None:
            yield from fields_of(section, f"{key}.")


def describe_fields(config_class: type[Config]) -> str:
    """Renders the help text: one line per key with its type, default and docstring (units included)."""
    lines: list[str] = []
    for key, field in fields_of(config_class):
        indent = "  " * key.count(".")
        if _section(field.annotation) is not None:
            lines.append(f"{indent}{key}:  {_one_line(field.description)}")
            continue
        default = "required" if field.is_required() else f"default {field.get_default(call_default_factory=True)!r}"
        lines.append(f"{indent}{key}  ({_kind(field.annotation)}; {default})  {_one_line(field.description)}")
    return "\n".join(lines)


def _kind(annotation: Any) -> str:
    kind = re.sub(r"(typing\.|exo2ego\.[\w.]+\.|<class '|'>|NoneType)", "", str(annotation))
    kind = re.sub(r"Literal\[(.*?)\]", lambda found: found[1].replace(", ", "|").replace("'", ""), kind)
    return kind.replace("Optional", "").strip()


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def to_yaml(config: Config) -> str:
    """Renders a configuration so that loading the text gives an equal configuration."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
