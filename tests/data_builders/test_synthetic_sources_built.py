"""From the generated raw datasets through every builder: what the built records say is true of the generated world."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from data_builders.synthetic import Event, read_ground_truth
from data_builders.synthetic.config import SyntheticConfig
from data_builders.synthetic.corpus import build_corpus
from data_builders.synthetic.sources.building import build_sources, read_truths
from data_builders.synthetic.sources.config import SourcesConfig
from data_builders.synthetic.sources.draft import Truth
from exo2ego.data.prompting import normal_form
from exo2ego.data.video import read_frames
from exo2ego.records import Conversation, Question
from tests.conftest import RunPython
from tests.data_builders.generated_truth import describes

EGOIT = ("egtea", "ssv2", "egotimeqa", "openeqa", "egoexolearn")
TABLES = {
    "egoschema": ("egoschema",),
    "qaego4d": ("qaego4d_close", "qaego4d_open"),
    "egotaskqa": ("egotaskqa_direct", "egotaskqa_indirect"),
    "charades_ego": ("charades_ego",),
    "ek100_mir": ("ek100_mir",),
    "egoplan": ("egoplan",),
    "vlnqa": ("vlnqa",),
    "egomcq": ("egomcq_inter", "egomcq_intra"),
}
NUM_OPTIONS = {"qaego4d_close": 4, "egoplan": 4, "vlnqa": 4, "egomcq_inter": 10, "egomcq_intra": 10}
OWN_OPTIONS = {"egoschema", "qaego4d_close", "egoplan", "vlnqa"}
"""Tables whose wrong options are the raw file's."""
SPANNED = {"charades_ego", "ek100_mir", "egomcq_inter", "egomcq_intra"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    world = SyntheticConfig(takes=10, seconds_per_take=14, frame_size=32, exo_cameras=1, val_share=0.3)
    build_corpus(world, folder / "corpus", workers=1)
    sizes = SourcesConfig(training_rows=30, benchmark_rows=24)
    build_sources(sizes, folder / "corpus", folder / "raw", workers=1)
    return folder


@pytest.fixture(scope="module")
def takes(root: Path) -> dict[str, list[Event]]:
    return read_ground_truth(root / "corpus")


@pytest.fixture(scope="module")
def built(root: Path) -> Callable[[str, str], dict[str, list[dict[str, Any]]]]:
    """Runs a builder on its generated dataset and returns the rows by table."""

    def build(kind: str, source: str) -> dict[str, list[dict[str, Any]]]:
        out = root / "built" / source
        if not out.exists():
            arguments = ("--root", root / "raw" / source, "--out", out, "--media-root", root / "raw")
            main = import_module(f"data_builders.{kind}.{source}").main
            assert main([*map(str, arguments), "--missing-videos", "stop"]) == 0
        return {path.stem: read_rows(path) for path in sorted(out.glob("*.jsonl"))}

    return build


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def can_be_read(raw: Path, row: dict[str, Any]) -> bool:
    frames = read_frames(raw / row["video"], row["start"], row["end"], 1, frame_rate=row["frame_rate"], within=raw)
    return frames.shape == (1, 32, 32, 3)


def truth_of(row: dict[str, Any], truths: Sequence[Truth]) -> Truth:
    """Returns the truth of a record: by the raw id where that is unique, else by video and time."""
    source, raw_id = row["source"], row["id"].split("/")[-1].partition("#")[0]
    if source in ("egotimeqa", "charades_ego"):
        found = [
            truth
            for truth in truths
            if f"{source}/{truth.video}" == row["video"]
            and truth.start_s is not None
            and abs(truth.start_s - row["start"]) < 2e-3
        ]
    else:
        found = [truth for truth in truths if raw_id in (truth.key, truth.key.removesuffix(".mp4"))]
    (truth,) = found
    return truth


@pytest.mark.parametrize("source", EGOIT)
def test_what_egoit_is_told_is_true(
    root: Path, takes: dict[str, list[Event]], built: Callable[..., Any], source: str
) -> None:
    (rows,) = built("egoit", source).values()
    truths = read_truths(root / "raw", source)
    if source == "egtea":
        truths = [truth for truth in truths if truth.table == "egtea/raw"]
    if source == "egoexolearn":
        truths = [truth for truth in truths if truth.trap != "exo_row"]
    assert len(rows) == len(truths)
    for row in rows:
        Conversation.model_validate(row)
        assert can_be_read(root / "raw", row)
        truth = truth_of(row, truths)
        event = takes[truth.take_uid][truth.events[0]]
        answer = row["answer"].split(") ", 1)[-1]
        if truth.wrong:
            assert normal_form(answer) == normal_form(truth.answer)
            assert sorted(row["options"]) in ([], sorted((truth.answer, *truth.wrong)))  # half are open questions
        elif source == "openeqa":
            assert (row["question"], normal_form(answer)) == (truth.question, normal_form(truth.answer))
        else:
            assert describes(answer, event), (row, truth)
            assert abs((row["start"] or 0) + truth.offset_s - event.start_s) < 0.3


@pytest.mark.parametrize("source", TABLES)
def test_what_egobench_takes_for_right_is_true(
    root: Path, takes: dict[str, list[Event]], built: Callable[..., Any], source: str
) -> None:
    tables = built("egobench", source)
    assert tuple(tables) == TABLES[source]
    for table, rows in tables.items():
        truths = [truth for truth in read_truths(root / "raw", source) if truth.table == table]
        assert rows
        for row in rows:
            Question.model_validate(row)
            assert (row["task"], row["source"]) == (table, source)
            assert can_be_read(root / "raw", row)
            truth = truth_of(row, truths)
            event = takes[truth.take_uid][truth.events[-1]]
            check_options(row, truth, event)
            if table in SPANNED:
                assert abs(row["start"] + truth.offset_s - event.start_s) < 0.05
            elif table == "egoplan":
                assert 0 <= event.start_s - row["observation"] < 0.05


def check_options(row: dict[str, Any], truth: Truth, event: Event) -> None:
    """The truth is among the options, once, and the index points to it."""
    options, table = row["options"], row["task"]
    if table == "qaego4d_open":
        assert (options, row["answer_text"]) == ([], truth.answer)
        return
    assert len(options) == NUM_OPTIONS.get(table, 5)
    assert len({normal_form(option) for option in options}) == len(options)
    if table in OWN_OPTIONS:
        assert {normal_form(option) for option in options} == {normal_form(o) for o in (truth.answer, *truth.wrong)}
    if truth.trap == "label_not_public":
        assert row["answer_index"] is None
        return
    chosen = options[row["answer_index"]]
    if table.startswith("egomcq"):
        assert describes(chosen.replace("I ", "C ", 1), event)
    else:
        assert normal_form(chosen) == normal_form(truth.answer)
    if table in ("egomcq_inter", "egomcq_intra", "charades_ego"):
        # Captions say all about an event but its hand: no other one can be true of it.
        assert [describes(option, event) for option in options].count(True) == 1


def test_trimmed_clips_of_egtea_show_their_action(root: Path, takes: dict[str, list[Event]]) -> None:
    out = root / "built" / "egtea_splits"
    main = import_module("data_builders.egoit.egtea").main
    arguments = ("--root", root / "raw" / "egtea", "--out", out, "--mode", "splits", "--missing-videos", "stop")
    assert main([*map(str, arguments)]) == 0
    rows = read_rows(out / "egtea.jsonl")
    truths = [truth for truth in read_truths(root / "raw", "egtea") if truth.table == "egtea/splits"]
    assert rows
    for row in rows:
        (truth,) = [truth for truth in truths if truth.video == row["video"]]
        assert describes(row["answer"], takes[truth.take_uid][truth.events[0]])
        assert can_be_read(root / "raw" / "egtea", row)


def test_egoclip_becomes_a_table_of_true_clips(
    root: Path, takes: dict[str, list[Event]], run_python: RunPython
) -> None:
    from exo2ego.data.clips import read_clips

    out = root / "built" / "egoclip"
    arguments = ("--root", root / "raw" / "egoclip", "--out", out, "--layout", "egovlp")
    done = run_python("-m", "data_builders.egoclip", *arguments)
    assert done.returncode == 0, done.stderr
    table = read_clips(next(out.glob("clips.*")))
    truths = {truth.key: truth for truth in read_truths(root / "raw", "egoclip")}
    assert len(table) == len(truths)
    uids = {(truth.video, round(truth.start_s or 0, 3)): truth for truth in truths.values()}
    for video, start_s, text in zip(
        *(table.column(name).to_pylist() for name in ("ego_video", "start_s", "text")), strict=True
    ):
        truth = uids[video, round(start_s, 3)]
        assert describes(text, takes[truth.take_uid][truth.events[0]]), (text, truth)
        read_frames(root / "raw" / "egoclip" / video, start_s, start_s + 0.5, 1)


@pytest.mark.parametrize(("kind", "sources"), [("egoit", EGOIT), ("egobench", tuple(TABLES))])
def test_all_sources_of_a_kind_in_one_command(
    root: Path, run_python: RunPython, built: Callable[..., Any], kind: str, sources: Sequence[str]
) -> None:
    out, raw = root / "all" / kind, root / "raw"
    roots = [f"{source}.root={raw / source}" for source in sources]
    done = run_python(
        "-m", f"data_builders.{kind}.all", f"out={out}", f"media_root={raw}", "missing_videos=stop", *roots
    )
    assert done.returncode == 0, done.stderr
    for source in sources:
        for table, rows in built(kind, source).items():
            assert len(read_rows(out / f"{table}.jsonl")) == len(rows)
    if kind == "egoit":
        assert len(read_rows(out / "egoit.jsonl")) == sum(len(read_rows(out / f"{name}.jsonl")) for name in sources)
