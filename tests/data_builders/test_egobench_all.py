"""All eight sources at once: what was skipped and why, the paper's counts beside, one form that loads together."""

from __future__ import annotations

import importlib
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest

from data_builders.egobench import all as egobench_all
from data_builders.egobench.all import CONFIG, SOURCES, main
from data_builders.egobench.meta import META_TYPES
from data_builders.egobench.options import has_repeated_options, option_text, repeated_truths
from data_builders.egobench.table_2 import TABLE_2, count_tables
from data_builders.record_features import conversation_features, question_features
from eval.questions import read_questions
from exo2ego.config import load_config
from exo2ego.records import Conversation
from exo2ego.storage import read_jsonl
from tests.shared_data import REPOSITORY
from tests.text_encoders import WordEncoder

NAMES = [source.name for source in SOURCES]
TABLES = [table for source in SOURCES for table in source.tables]
EMBEDDED = ("egotaskqa", "charades_ego", "ek100_mir", "egomcq")
WITHOUT_ENCODER = [name for name in NAMES if name not in EMBEDDED]


def write_raw(root: Path, names: list[str]) -> list[str]:
    """Writes made-up sources and returns the overrides that name them."""
    for name in names:
        module = importlib.import_module(f"tests.data_builders.raw_{name}")
        getattr(module, f"write_{name}")(root / name)
    return [f"{name}.root={root / name}" for name in names]


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All eight sources, built with an encoder that needs no model."""
    for module in ("options", "quality"):
        monkeypatch.setattr(f"data_builders.distractors.{module}.load_encoder", lambda _: WordEncoder())
    out = tmp_path / "out"
    assert main([f"out={out}", f"media_root={tmp_path}", *write_raw(tmp_path / "raw", NAMES)]) == 0
    return out


def test_all_tables_are_made_and_counted_beside_table_2(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    built: Path = request.getfixturevalue("built")  # after capsys, so that its output is seen here
    assert {path.stem for path in built.glob("*.jsonl")} == set(TABLES)
    told = capsys.readouterr().out
    for name in NAMES:
        assert f"{name}: written to {built}" in told
        assert (built / f"{name}.summary.json").is_file()
    for name in WITHOUT_ENCODER:
        for table in next(source.tables for source in SOURCES if source.name == name):
            assert (built / f"{table}.quality.md").read_text().startswith(f"# {table}: how guessable it is")
    assert "Exo2Ego Table 2" in told
    assert [row for row in ("39,716", "19,182", "9,668", "5,031", "3,339", "1,854") if row not in told] == []


def test_counts_are_those_of_the_tables(built: Path) -> None:
    summaries = {name: json.loads((built / f"{name}.summary.json").read_text()) for name in NAMES}
    rows = {row.paper.source: row for row in count_tables(summaries)}
    assert list(rows) == [paper.source for paper in TABLE_2]
    for row in rows.values():
        assert row.questions == sum(len(list(read_jsonl(built / f"{table}.jsonl"))) for table in row.paper.tables)
    assert rows["EgoSchema"].videos == 4
    assert rows["EgoPlan Val"].videos == 3
    assert rows["EgoPlan Val"].mean_s == pytest.approx((9 + 18 + 0 + 9 + 10.8) / 5, abs=1e-3)
    assert rows["VLN-QA"].mean_s is None
    mcq = [list(read_jsonl(built / f"{table}.jsonl")) for table in ("egomcq_inter", "egomcq_intra")]
    assert rows["EgoMCQ"].videos == len({row["meta"]["video_uid"] for table in mcq for row in table})


def test_ids_are_unique_and_closed_tables_can_be_asked(built: Path) -> None:
    closed = [built / f"{table}.jsonl" for table in TABLES if table != "qaego4d_open"]
    questions = read_questions(closed)
    assert len(questions) == sum(len(list(read_jsonl(path))) for path in closed)
    assert {question.task for question in questions} == {path.stem for path in closed}
    for question in questions:
        assert question.question_id.startswith(f"{question.source}/")
        for index in (*question.meta.get("also_correct", []), *question.meta.get("same_as_truth", [])):
            assert index != question.answer_index
            assert 0 <= index < len(question.options)


def test_paths_are_relative_to_the_one_media_root(built: Path) -> None:
    root = built.parent / "raw"
    for table in TABLES:
        for row in read_jsonl(built / f"{table}.jsonl"):
            assert not row["video"].startswith("/")
            assert ".." not in Path(row["video"]).parts
            assert (built.parent / row["video"]).is_relative_to(root)


def test_every_key_of_meta_is_documented_with_one_type(built: Path) -> None:
    documented = (REPOSITORY / "docs" / "egobench.md").read_text(encoding="utf-8")
    assert not [key for key in META_TYPES if f"`{key}`" not in documented]
    used: set[str] = set()
    for table in TABLES:
        for row in read_jsonl(built / f"{table}.jsonl"):
            used |= set(row["meta"])
            assert not [key for key, value in row["meta"].items() if not has_type(value, META_TYPES[key])], row
    assert set(META_TYPES) - used <= {"similarities"}


def has_type(value: Any, kind: Any) -> bool:
    if get_origin(kind) is list:
        return isinstance(value, list) and all(has_type(item, get_args(kind)[0]) for item in value)
    return type(value) is kind


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_all_tables_load_together_in_any_order(built: Path, tmp_path: Path, suffix: str) -> None:
    datasets = pytest.importorskip("datasets")
    files = [str(built / f"{table}.{suffix}") for table in TABLES]
    expected = {row["id"]: row for table in TABLES for row in read_jsonl(built / f"{table}.jsonl")}
    for seed in range(3):
        random.Random(seed).shuffle(files)
        loaded = datasets.load_dataset(
            "json",
            data_files=files,
            features=question_features(),
            split="train",
            cache_dir=str(tmp_path / f"cache{seed}"),
        )
        assert len(loaded) == len(expected)
        for row in loaded:
            row["meta"] = {key: value for key, value in row["meta"].items() if value is not None}
            assert row == expected[row["id"]]


def test_conversations_load_whatever_the_first_file_lacks(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [
        Conversation(id="ssv2/1", source="ssv2", video="1.webm", answer="a"),
        Conversation(
            id="egtea/1", source="egtea", video="P1", answer="b", start=1.5, end=2, frame_rate=24, options=["x"]
        ),
    ]
    for number, row in enumerate(rows):
        (tmp_path / f"{number}.jsonl").write_text(json.dumps(row.to_row()) + "\n")
    files = [str(tmp_path / f"{number}.jsonl") for number in range(2)]
    cache = str(tmp_path / "cache")
    loaded = datasets.load_dataset(
        "json", data_files=files, features=conversation_features(), split="train", cache_dir=cache
    )
    assert [Conversation.model_validate(row) for row in loaded] == rows


def test_the_command_skips_what_has_no_root(tmp_path: Path) -> None:
    roots = write_raw(tmp_path / "raw", WITHOUT_ENCODER)
    config = tmp_path / "config.yaml"
    config.write_text(f"out: {tmp_path / 'out'}\nmedia_root: {tmp_path}\nmissing_videos: drop\nseed: 4\n")
    command = [sys.executable, "-m", "data_builders.egobench.all", "--config", str(config), *roots]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr
    for name in EMBEDDED:
        assert f"{name}: skipped: {name}.root is not given" in done.stdout
    for name in WITHOUT_ENCODER:
        summary = json.loads((tmp_path / "out" / f"{name}.summary.json").read_text())
        assert summary["provenance"]["seed"] == 4
        assert summary["provenance"]["config"]["missing_videos"] == "drop"
    assert sorted(path.stem for path in (tmp_path / "out").glob("*.jsonl")) == [
        "egoplan",
        "egoschema",
        "qaego4d_close",
        "qaego4d_open",
        "vlnqa",
    ]


def test_a_source_that_fails_is_named_and_the_others_are_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roots = write_raw(tmp_path / "raw", WITHOUT_ENCODER)
    (tmp_path / "raw" / "egoplan" / "EgoPlan_validation.json").write_text("[{")
    assert main([f"out={tmp_path / 'out'}", f"media_root={tmp_path}", *roots]) != 0
    told = capsys.readouterr().out.replace("\n", "")
    assert "egoplan: failed: " in told
    assert "EgoPlan_validation.json" in told
    assert (tmp_path / "out" / "vlnqa.jsonl").is_file()
    assert not (tmp_path / "out" / "egoplan.jsonl").exists()


def test_tables_without_one_folder_for_their_paths_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"out={tmp_path / 'out'}", *write_raw(tmp_path / "raw", ["egoschema", "vlnqa"])]) == 2
    assert "give media_root, a folder above all videos" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_the_shipped_configuration_names_every_source() -> None:
    shipped = load_config(CONFIG, REPOSITORY / "data_builders" / "configs" / "egobench.yaml")
    assert all(getattr(shipped, name).model_fields_set >= {"root"} for name in NAMES)
    assert egobench_all.__doc__ is not None
    assert "skipped" in egobench_all.__doc__


def test_options_that_say_the_same() -> None:
    options = ["Stop", "go  on.", "stop.", "Go on"]
    assert has_repeated_options(options)
    assert repeated_truths(options, 0) == [2]
    assert repeated_truths(options, 3) == [1]
    assert not has_repeated_options(options[:2])
    assert option_text("I Go On.", "paper") == "I go on."
