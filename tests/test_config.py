"""Configurations: YAML with overrides and `extends`, all faults at once, and a print that reads back equal."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from exo2ego.config import Config, describe_fields, load_config, merge, parse_yaml, to_yaml, validate_config
from exo2ego.errors import ConfigError


class Weights(Config):
    """Weights of the losses."""

    kl: float = 1.0
    """Weight of the divergence term."""
    cycle: float = 0.5


class RunConfig(Config):
    learning_rate: float
    """Peak learning rate."""
    num_frames: int = Field(default=16, gt=0)
    """Frames per clip."""
    view: Literal["ego", "exo"] = "ego"
    name: str = "run"
    output_dir: Path = Path("runs/x")
    init_from: Path | None = None
    cameras: list[str] = Field(default_factory=lambda: ["cam01"])
    weights: Weights = Weights()
    """What is added up."""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def test_overrides_win_over_the_file_and_keep_the_rest(write: Any) -> None:
    path = write("run.yaml", "learning_rate: 2e-5\nweights:\n  kl: 2\n  cycle: 3\n")
    config = load_config(RunConfig, path, ["weights.kl=0", "name=second", "cameras=[cam02, cam03]"])
    assert config.learning_rate == 2e-5
    assert (config.weights.kl, config.weights.cycle) == (0, 3)
    assert (config.name, config.cameras) == ("second", ["cam02", "cam03"])


@pytest.mark.parametrize(
    ("text", "value"), [("2e-5", 2e-5), ("1E6", 1e6), ("-.5e+2", -50.0), ("3.e1", 30.0), ("1e", "1e"), ("e5", "e5")]
)
def test_numbers_with_an_exponent_are_numbers(text: str, value: object) -> None:
    assert parse_yaml(text, "here") == value


def test_every_fault_is_listed_with_the_nearest_key(write: Any) -> None:
    path = write("run.yaml", "learning_rte: 1\nnum_frames: eight\nweights:\n  kll: 1\nview: both\nsecond: 1\n")
    with pytest.raises(ConfigError) as caught:
        load_config(RunConfig, path)
    first, *faults = str(caught.value).splitlines()
    assert first == f"{path}: 6 problems"
    assert "  learning_rate: is required" in faults
    assert "  learning_rte: unknown key (did you mean `learning_rate`?)" in faults
    assert "  weights.kll: unknown key (did you mean `weights.kl`?)" in faults
    assert "  second: unknown key" in faults
    assert any(fault.startswith("  num_frames: ") and fault.endswith("got 'eight'") for fault in faults)
    assert any(fault.startswith("  view: ") and "'ego' or 'exo'" in fault for fault in faults)


def test_a_key_in_the_wrong_section_is_pointed_home(write: Any) -> None:
    with pytest.raises(ConfigError, match=r"cycle: unknown key \(did you mean `weights.cycle`\?\)"):
        load_config(RunConfig, write("run.yaml", "learning_rate: 1\ncycle: 2\n"))


def test_every_malformed_override_is_listed() -> None:
    overrides = [
        "learning_rate=1",
        "num_frames",
        "--view=ego",
        "weights..kl=1",
        "=3",
        "name=[half",
        "cameras={a: 1, a: 2}",
    ]
    with pytest.raises(ConfigError) as caught:
        load_config(RunConfig, None, overrides)
    for malformed in overrides[1:]:
        assert f"`{malformed}`" in str(caught.value)
    assert "learning_rate" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nweights:\n  kl: 1\n  kl: 2\n", "line 4: key `kl` is given twice"),
        ("name: [a, b\n", "is not valid YAML"),
        ("? [a, b]\n: 1\n", "line 1: a key must be a plain name"),
        ("name: 2026-02-30\n", "day"),
        ("name: !!python/object/apply:os.getcwd []\n", "line 1 is not valid YAML"),
        ("name: &name [*name]\n", "is not valid YAML"),
        ("- name\n", "expected a mapping of keys to values, got list"),
        ("false\n", "expected a mapping of keys to values, got bool"),
        ("extends: [a.yaml]\n", "extends: expected the path of one YAML file"),
    ],
)
def test_malformed_files_are_one_message_that_names_the_file(write: Any, text: str, message: str) -> None:
    path = write("run.yaml", text)
    with pytest.raises(ConfigError) as caught:
        load_config(RunConfig, path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", None], ids=["binary", "absent"])
def test_an_unreadable_file_is_one_message(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "run.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(RunConfig, path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(RunConfig, tmp_path)


def test_an_empty_file_is_an_empty_configuration(write: Any) -> None:
    assert load_config(Weights, write("run.yaml", "# only a comment\n")) == Weights()


def test_extends_chains_are_laid_under_the_file(write: Any) -> None:
    write("base/first.yaml", "learning_rate: 1\nname: first\nweights: {kl: 1, cycle: 1}\n")
    write("base/second.yaml", "extends: first.yaml\nname: second\nweights: {kl: 2}\n")
    path = write("third.yaml", "extends: base/second.yaml\nnum_frames: 4\n")
    config = load_config(RunConfig, path)
    assert (config.learning_rate, config.name, config.num_frames) == (1, "second", 4)
    assert config.weights == Weights(kl=2, cycle=1)


def test_extends_loops_and_missing_parents_name_the_chain(write: Any) -> None:
    write("a.yaml", "extends: b.yaml\n")
    path = write("b.yaml", "extends: a.yaml\n")
    with pytest.raises(ConfigError, match=r"extends itself through .*b\.yaml -> .*a\.yaml -> .*b\.yaml"):
        load_config(RunConfig, path)
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read .* extended by .*c\.yaml"):
        load_config(RunConfig, write("c.yaml", "extends: absent.yaml\n"))


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(ValidationError):
        Weights().kl = 2.0  # type: ignore[misc]


def test_help_shows_keys_types_defaults_and_docstrings() -> None:
    text = describe_fields(RunConfig)
    assert "learning_rate  (float; required)  Peak learning rate." in text
    assert "num_frames  (int; default 16)  Frames per clip." in text
    assert "view  (ego|exo; default 'ego')" in text
    assert "cameras  (list[str]; default ['cam01'])" in text
    assert "  weights.kl  (float; default 1.0)  Weight of the divergence term." in text
    assert "weights:  What is added up." in text


texts = st.text(st.characters(codec="utf-8"), max_size=30)
# Texts that YAML would read as something else when they are not quoted.
tricky_texts = st.sampled_from(
    [
        "1e5",
        "12e45",
        "yes",
        "null",
        "~",
        "2026-11-21",
        "0x1f",
        "1:30",
        "",
        " a",
        "a: b",
        "#",
        "é\u2028",
        "\x85",
        "a\x85b",
    ]
)
finite_floats = st.floats(allow_nan=False)
configs = st.builds(
    RunConfig,
    learning_rate=finite_floats,
    num_frames=st.integers(1, 10**20),
    view=st.sampled_from(["ego", "exo"]),
    name=texts | tricky_texts,
    init_from=st.none() | st.sampled_from([Path("runs/1e5"), Path("1e5"), Path("/a b/c")]),
    cameras=st.lists(texts | tricky_texts, max_size=3),
    weights=st.builds(Weights, kl=finite_floats, cycle=st.floats()),
)


@given(configs)
def test_a_printed_configuration_reads_back_equal(config: RunConfig) -> None:
    again = validate_config(RunConfig, parse_yaml(to_yaml(config), "printed"), "printed")
    if math.isnan(config.weights.cycle):  # NaN is equal to nothing, itself included
        assert math.isnan(again.weights.cycle)
    else:
        assert again == config


trees = st.recursive(
    st.integers() | texts, lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=8
)
sections = st.dictionaries(st.sampled_from("abc"), trees, max_size=3)


@given(sections, sections)
def test_merging_takes_changes_and_loses_nothing_else(base: dict[str, Any], changes: dict[str, Any]) -> None:
    before = yaml.safe_dump(base)
    merged = merge(base, changes)
    assert yaml.safe_dump(base) == before
    assert merge(merged, changes) == merged
    for key in {*base, *changes}:
        if key not in changes:
            assert merged[key] == base[key]
        elif not (isinstance(changes[key], dict) and isinstance(base.get(key), dict)):
            assert merged[key] == changes[key]
