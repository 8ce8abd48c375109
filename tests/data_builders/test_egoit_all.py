"""All of EgoIT in one run: what is skipped and why, one table for stage 3, one folder that its paths start from."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from data_builders.egoit import egoexolearn, egotimeqa, egtea, openeqa, ssv2
from data_builders.egoit.all import CONFIG, SOURCES, combine, main
from data_builders.egoit.instructions import read_instructions
from data_builders.source import Account
from exo2ego.config import load_config
from exo2ego.data.conversations import read_conversations
from exo2ego.errors import ConfigError, DataError
from exo2ego.storage import TEMPORARY_MARK, hash_file
from tests.data_builders.egoit_builds import instruction_file, load_with_datasets
from tests.data_builders.raw_egotimeqa import question, write_egotimeqa
from tests.shared_data import REPOSITORY

ROWS = {"egtea": 5, "ssv2": 6, "egotimeqa": 6, "openeqa": 3, "egoexolearn": 2}
EXAMPLE = REPOSITORY / "data_builders" / "configs" / "egoit.yaml"


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """A folder with the raw files of every source in a folder of its name."""
    for name in ROWS:
        write = getattr(importlib.import_module(f"tests.data_builders.raw_{name}"), f"write_{name}")
        write(tmp_path / "media" / name)
    return tmp_path / "media"


def overrides(media: Path, *names: str, **values: Any) -> list[str]:
    given = {"out": media.parent / "out", "media_root": media, **values}
    return [f"{key}={value}" for key, value in given.items()] + [f"{name}.root={media / name}" for name in names]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_the_command_builds_every_source_and_one_table(media: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "data_builders.egoit.all", "--config", str(EXAMPLE), *overrides(media, *ROWS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    assert set(content(out)) == {
        f"{table}{suffix}" for table in (*ROWS, "egoit") for suffix in (".jsonl", ".summary.json")
    }
    rows = read_conversations(out / "egoit.jsonl")
    assert [row.source for row in rows] == [name for name, count in ROWS.items() for _ in range(count)]
    assert len({row.conversation_id for row in rows}) == len(rows)
    assert rows[0].video == "egtea/P90-R01-PastaSalad.mp4"  # relative to the one folder above all sources
    for row in rows:
        assert row.instruction in read_instructions(row.source)
    summary = json.loads((out / "egoit.summary.json").read_text())
    assert summary["sources"] == ROWS
    assert summary["tables"]["egoit"] == {"file": "egoit.jsonl", "rows": 22, "sha256": hash_file(out / "egoit.jsonl")}
    assert summary["provenance"]["inputs"] == {
        str(out / f"{name}.jsonl"): hash_file(out / f"{name}.jsonl") for name in ROWS
    }
    assert "egoit: 22 rows, the paper has about 586,000 (Table 1): -585,978; see the sources" in done.stdout


def test_the_combined_table_loads_with_datasets(media: Path, tmp_path: Path) -> None:
    assert main(overrides(media, *ROWS)) == 0
    table = load_with_datasets(tmp_path / "out" / "egoit.jsonl", tmp_path / "cache")
    assert len(table) == sum(ROWS.values())
    written = (tmp_path / "out" / "egoit.jsonl").read_text().splitlines()
    assert table.to_list() == [json.loads(line) for line in written]


def test_a_source_without_a_root_is_skipped_and_named(
    media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(overrides(media, "openeqa", "egtea")) == 0
    told = capsys.readouterr().out
    assert "ssv2: skipped: ssv2.root is not given" in told
    assert "without ssv2, egotimeqa, egoexolearn" in told
    assert [row.source for row in read_conversations(tmp_path / "out" / "egoit.jsonl")] == ["egtea"] * 5 + [
        "openeqa"
    ] * 3


def test_sections_hold_the_options_of_their_source(media: Path, tmp_path: Path) -> None:
    own = instruction_file(tmp_path / "own.json", "ssv2", ["Look."])
    given = [
        *overrides(media, "ssv2", "egotimeqa", seed=3),
        f"ssv2.instructions={own}",
        "ssv2.splits=[test]",
        f"ssv2.out={tmp_path / 'elsewhere'}",
        "egotimeqa.form=open",
    ]
    assert main(given) == 0
    rows = read_conversations(tmp_path / "out" / "egoit.jsonl")
    assert [row.instruction for row in rows[:2]] == ["Look.", "Look."]
    assert [row.kind for row in rows[2:]] == ["open_qa"] * 6
    assert (tmp_path / "elsewhere" / "ssv2.jsonl").exists()
    configs = json.loads((tmp_path / "out" / "egoit.summary.json").read_text())["provenance"]["config"]
    assert (configs["ssv2"]["seed"], configs["egotimeqa"]["form"]) == (3, "open")


def test_all_paths_must_start_from_one_folder(media: Path) -> None:
    roots = [f"{name}.root={media / name}" for name in ("ssv2", "openeqa")]
    with pytest.raises(ConfigError, match=r"relative to different folders \(ssv2: .*, openeqa: .*\).* give media_root"):
        load_config(CONFIG, None, ["out=x", *roots])
    load_config(CONFIG, None, ["out=x", roots[0]])
    load_config(CONFIG, None, ["out=x", *roots, f"ssv2.media_root={media}", f"openeqa.media_root={media}"])
    with pytest.raises(ConfigError, match="relative to different folders"):
        load_config(CONFIG, None, ["out=x", f"media_root={media}", *roots, "ssv2.media_root=null"])


def test_a_failure_leaves_the_former_combined_table(
    media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(overrides(media, *ROWS)) == 0
    before = content(tmp_path / "out")
    (media / "openeqa" / "data" / "open-eqa-v0.json").write_text("[{]")
    assert main(overrides(media, "openeqa", "egtea")) == DataError.exit_code
    assert "openeqa: failed:" in capsys.readouterr().out
    after = content(tmp_path / "out")
    for name in ("egoit.jsonl", "egoit.summary.json", "openeqa.jsonl"):
        assert after[name] == before[name]


def test_a_killed_run_leaves_no_table_and_the_next_one_cleans_up(media: Path, tmp_path: Path) -> None:
    rows = [question(number) for number in range(40_000)]
    (media / "egotimeqa" / "data" / "unified" / "annotations.EgoTimeQA.json").write_text(json.dumps(rows))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "data_builders.egoit.all", *overrides(media, "egotimeqa")]
    running = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not (out.is_dir() and any(path.stat().st_size for path in out.iterdir())):
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    running.kill()
    running.wait()
    left = list(out.iterdir())
    assert [path.name.split(TEMPORARY_MARK)[0] for path in left] == ["egotimeqa.jsonl"]
    assert all(TEMPORARY_MARK in path.name for path in left)
    write_egotimeqa(media / "again")
    assert main([*overrides(media), f"egotimeqa.root={media / 'again'}"]) == 0
    assert set(content(out)) == {
        f"{name}{end}" for name in ("egotimeqa", "egoit") for end in (".jsonl", ".summary.json")
    }


def test_an_id_of_two_sources_is_refused(tmp_path: Path) -> None:
    summaries: dict[str, Mapping[str, Any]] = {}
    for name in ("egtea", "ssv2"):
        (tmp_path / f"{name}.jsonl").write_text('{"id": "same"}\n')
        config = {"out": str(tmp_path)}
        table = {"file": f"{name}.jsonl", "rows": 1, "sha256": "0"}
        summaries[name] = {"tables": {name: table}, "provenance": {"config": config}}
    with pytest.raises(DataError, match=r"ssv2.jsonl: the id 'same' is also in another source"):
        combine(tmp_path, summaries)
    assert set(content(tmp_path)) == {"egtea.jsonl", "ssv2.jsonl"}


def test_nothing_to_do_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(EXAMPLE)]) == ConfigError.exit_code
    assert "no source has a root; give at least one, for example egtea.root=DIR" in capsys.readouterr().err


def test_the_example_names_every_source() -> None:
    config = load_config(CONFIG, EXAMPLE)
    text = EXAMPLE.read_text()
    for source in SOURCES:
        assert f"\n{source.name}: " in text
        assert getattr(config, source.name).root is None


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_own_instructions_are_recorded(source: Any, media: Path, tmp_path: Path) -> None:
    own = instruction_file(tmp_path / "own.json", source.name, ["Look.", "Watch."])
    root = media / source.name
    assert (
        importlib.import_module(source.module).main(
            ["--root", str(root), "--out", str(tmp_path / "out"), "--instructions", str(own)]
        )
        == 0
    )
    rows = read_conversations(tmp_path / "out" / f"{source.name}.jsonl")
    assert {row.instruction for row in rows} <= {"Look.", "Watch."}
    summary = json.loads((tmp_path / "out" / f"{source.name}.summary.json").read_text())
    assert summary["provenance"]["inputs"]["instructions/own.json"] == hash_file(own)
    other = instruction_file(tmp_path / "other.json", "other", ["Look."])
    assert (
        importlib.import_module(source.module).main(
            ["--root", str(root), "--out", str(tmp_path / "not"), "--instructions", str(other)]
        )
        == DataError.exit_code
    )


@pytest.mark.parametrize("missing_videos", ["keep", "drop"])
@pytest.mark.parametrize(
    ("source", "options", "num_rows"),
    [
        (egtea.SOURCE, {}, 6),
        (egtea.SOURCE, {"mode": "splits"}, 3),
        (ssv2.SOURCE, {}, 6),
        (ssv2.SOURCE, {"answers": "label"}, 6),
        (egotimeqa.SOURCE, {}, 8),
        (egotimeqa.SOURCE, {"form": "closed"}, 8),
        (openeqa.SOURCE, {}, 3),
        (egoexolearn.SOURCE, {}, 6),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_every_raw_row_is_in_the_table_or_left_out_once(
    source: Any, options: dict[str, str], num_rows: int, missing_videos: str, media: Path
) -> None:
    account = Account()
    given = {"root": media / source.name, "out": media, "missing_videos": missing_videos, **options}
    tables = source.read(source.options.model_validate(given), account)
    kept = sum(1 for records in tables.values() for _ in records)
    assert kept + sum(account.dropped.values()) == num_rows
    num_there = int(source.name == "openeqa")
    assert account.noted["missing_video"] == (0 if missing_videos == "drop" else kept - num_there)
