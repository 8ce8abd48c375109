"""The raw datasets made of a generated corpus: their layouts and traps, that they are true, and finishing them."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import psutil
import pytest

from data_builders.synthetic import Event, read_ground_truth, read_sidecar
from data_builders.synthetic.sources.building import GROUND_TRUTH, LAYOUTS, RECORD, read_truths
from data_builders.synthetic.sources.draft import Truth
from tests.conftest import RunPython
from tests.data_builders.generated_truth import describes
from tests.shared_data import REPOSITORY

TRAINING = {"egtea", "ssv2", "egotimeqa", "openeqa", "egoexolearn", "egoclip"}
BENCHMARK = {"egoschema", "qaego4d", "egotaskqa", "charades_ego", "ek100_mir", "egoplan", "vlnqa", "egomcq"}
SETTINGS = ("--training-rows", 40, "--benchmark-rows", 30, "--workers", 2)
Take = Sequence[Event]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, run_python: RunPython) -> Path:
    folder = tmp_path_factory.mktemp("world") / "corpus"
    size = ("--takes", 10, "--seconds-per-take", 14, "--frame-size", 32, "--val-share", 0.3)
    done = run_python("-m", "data_builders.synthetic", "--out", folder, *size, "--workers", 2)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def sources(corpus: Path, run_python: RunPython) -> Path:
    out = corpus.parent / "sources"
    assert build(run_python, corpus, out) == 0
    return out


def build(run_python: RunPython, corpus: Path, out: Path, *settings: object) -> int:
    command = ("-m", "data_builders.synthetic.sources", "--corpus", corpus, "--out", out, *(settings or SETTINGS))
    return run_python(*command).returncode


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def table(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        if delimiter == "\t":
            return list(csv.DictReader(stream, delimiter=delimiter, quoting=csv.QUOTE_NONE))
        return list(csv.DictReader(stream, delimiter=delimiter))


def every_truth(sources: Path, *tables: str) -> list[Truth]:
    truths = [truth for layout in LAYOUTS for truth in read_truths(sources, layout.name)]
    return [truth for truth in truths if not tables or truth.table in tables]


def annotation_files(root: Path) -> dict[str, bytes]:
    suffixes = {".json", ".jsonl", ".csv", ".txt"}
    files = sorted(path for path in root.rglob("*") if path.suffix in suffixes and path.name != RECORD)
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_there_are_thirteen_datasets_and_egoclip(sources: Path) -> None:
    assert {layout.name for layout in LAYOUTS} == TRAINING | BENCHMARK
    assert {path.name for path in sources.iterdir()} == TRAINING | BENCHMARK | {RECORD, GROUND_TRUTH}
    assert set(read(sources / RECORD)["sources"]) == TRAINING | BENCHMARK


def test_nothing_leaks_from_training_into_the_benchmark(corpus: Path, sources: Path) -> None:
    split = {uid: take["split"] for uid, take in read_sidecar(corpus)["takes"].items()}
    for layout in LAYOUTS:
        expected = "train" if layout.name in TRAINING else "val"
        assert {split[truth.take_uid] for truth in read_truths(sources, layout.name)} == {expected}


def test_every_video_of_the_ground_truth_is_there(sources: Path) -> None:
    for layout in LAYOUTS:
        missing = {truth.video for truth in read_truths(sources, layout.name)}
        assert not [video for video in missing if not (sources / layout.name / video).exists()]


@pytest.mark.parametrize(
    ("pattern", "codec", "rate"),
    [
        ("ssv2/20bn-something-something-v2/*.webm", "vp9", 12),
        ("egotaskqa/qa_videos/*|P1|*.mp4", "h264", 24),
        ("egtea/cropped_clips/*/*-F*-F*.mp4", "h264", 24),
        ("egoschema/videos/*.mp4", "h264", 30),
        ("vlnqa/video/vlnqa/*.mp4", "h264", 30),
        ("charades_ego/CharadesEgo_v1_480/*EGO.mp4", "h264", 30),
    ],
)
def test_cut_clips_are_encoded_as_the_dataset_has_them(sources: Path, pattern: str, codec: str, rate: int) -> None:
    paths = sorted(sources.glob(pattern))
    assert paths
    with av.open(str(paths[0])) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name.removeprefix("lib"), stream.average_rate) in {
            (codec, rate),
            ("vpx-vp9", rate),
        }
        assert (stream.width, stream.height) == (32, 32)
        assert sum(1 for _ in container.decode(stream)) > 0


@pytest.mark.parametrize("pattern", ["egotimeqa/v2/clips/*.mp4", "qaego4d/v1/clips/*.mp4", "egomcq/*/0.mp4"])
def test_whole_videos_take_no_space(sources: Path, pattern: str) -> None:
    assert all(path.stat().st_nlink > 1 for path in sources.glob(pattern))


def test_the_traps_of_the_real_files_are_there(sources: Path) -> None:
    told = {name: source["traps"] for name, source in read(sources / RECORD)["sources"].items()}
    rows = read(sources / "egotimeqa/data/unified/annotations.EgoTimeQA.json")
    assert all(row["sample_id"] == row["video_id"] and len(row["wrong_answers"]) == 3 for row in rows)
    assert sum(bool(re.search(r"\bl\b", row["question"])) for row in rows) == told["egotimeqa"]["l_for_I"] > 0
    frames = next((sources / "openeqa/data/frames").glob("*/*"))
    assert {path.name.split("-")[-1] for path in frames.glob("*.png")} == {"rgb.png", "depth.png"}
    classes = (sources / "charades_ego/CharadesEgo/Charades_v1_classes.txt").read_text()
    assert not classes.endswith("\n")
    assert " \n" in classes
    actions = table(sources / "charades_ego/CharadesEgo/CharadesEgo_v1_test_only1st.csv")
    assert any(float(row["actions"].split()[-1]) > float(row["length"]) for row in actions if row["actions"])
    clips = table(sources / "egoclip/egoclip.csv", "\t")
    assert any(float(row["clip_start"]) < 0 for row in clips)
    assert any('"' in row["clip_text"] for row in clips)
    assert {row["view"] for row in table(sources / "egoexolearn/annotations/fine_annotation_trainval_en.csv")} == {
        "ego",
        "exo",
    }
    labels = read(sources / "ssv2/labels/labels.json")
    assert list(labels) == sorted(labels)
    assert list(labels.values()) == [str(number) for number in range(len(labels))]
    assert all(set(row) == {"id"} for row in read(sources / "ssv2/labels/test.json"))


def test_the_sentence_file_of_epic_kitchens_ends_in_wrong_captions(sources: Path) -> None:
    folder = sources / "ek100_mir/retrieval_annotations"
    told = {row["narration_id"]: row["narration"] for row in table(folder / "EPIC_100_retrieval_test.csv")}
    sentences = table(folder / "EPIC_100_retrieval_test_sentence.csv")
    wrong = [row for row in sentences if told[row["narration_id"]] != row["narration"]]
    assert 0 < len(wrong) == read(sources / RECORD)["sources"]["ek100_mir"]["traps"]["wrong_caption_row"]
    assert sentences[-len(wrong) :] == wrong


def test_some_types_of_egomcq_are_mislabelled(sources: Path) -> None:
    entries = read(sources / "egomcq/egomcq.json").values()
    videos = [{choice["video_uid"] for choice in entry["choices"].values()} for entry in entries]
    kinds = [2 if len(uids) == 1 else 1 for uids in videos]
    wrong = sum(entry["types"] != kind for entry, kind in zip(entries, kinds, strict=True))
    assert 0 < wrong == read(sources / RECORD)["sources"]["egomcq"]["traps"]["mislabelled_type"]
    assert all(entry["query"] == entry["choices"][str(entry["answer"])] for entry in entries)


SHOWS_THE_EVENT = (
    *("egtea/raw", "egtea/splits", "ssv2/train", "ssv2/validation", "ssv2/test", "egotimeqa", "egoexolearn", "egoclip"),
    *("charades_ego", "ek100_mir", "egomcq_inter", "egomcq_intra"),
)


@pytest.fixture(scope="module")
def takes(corpus: Path) -> dict[str, list[Event]]:
    return read_ground_truth(corpus)


@pytest.mark.parametrize("name", SHOWS_THE_EVENT)
def test_a_row_about_one_event_is_true_of_what_its_span_shows(
    sources: Path, takes: dict[str, list[Event]], name: str
) -> None:
    truths = every_truth(sources, name)
    assert truths
    for truth in truths:
        (index,) = truth.events
        event = takes[truth.take_uid][index]
        if truth.start_s is not None and truth.end_s is not None:
            shown_s = min(event.end_s, truth.offset_s + truth.end_s) - max(
                event.start_s, truth.offset_s + truth.start_s
            )
            assert shown_s > 0.6 * (event.end_s - event.start_s), truth
        else:
            assert abs(truth.offset_s - event.start_s) < 0.3, truth
        if truth.answer in ("yes", "no"):
            assert describes(truth.question, event) == (truth.answer == "yes"), truth
            continue
        assert describes(truth.answer, event), truth
        assert not [option for option in truth.wrong if describes(option, event)], truth


def test_questions_about_a_whole_clip_have_one_answer(sources: Path, takes: dict[str, list[Event]]) -> None:
    truths = every_truth(sources, "qaego4d_open", "qaego4d_close")
    assert {truth.table for truth in truths} == {"qaego4d_open", "qaego4d_close"}
    for truth in truths:
        events = takes[truth.take_uid]
        asked, _, follows = truth.question.partition("right after")
        about = [
            place for place, event in enumerate(events) if describes(follows or asked.replace("from?", "?"), event)
        ]
        answering = [events[place + bool(follows)] for place in about]
        assert answering, truth
        assert all(describes(truth.answer, event) for event in answering), truth
        assert not [option for option in truth.wrong for event in answering if describes(option, event)], truth


def test_the_next_action_is_the_one_that_follows(sources: Path, takes: dict[str, list[Event]]) -> None:
    for truth in every_truth(sources, "egoplan"):
        assert truth.end_s is not None
        following = next(event for event in takes[truth.take_uid] if event.start_s >= truth.end_s)
        assert describes(truth.answer, following), truth
        assert len(truth.wrong) == 3
        assert not [option for option in truth.wrong if describes(option, following)], truth
    for truth in every_truth(sources, "vlnqa"):
        with av.open(str(sources / "vlnqa" / truth.video)) as container:
            length_s = sum(1 for _ in container.decode(video=0)) / 30
        end_s = truth.offset_s + length_s
        following = min(takes[truth.take_uid], key=lambda event: abs(event.start_s - end_s))
        assert abs(following.start_s - end_s) < 0.1
        assert describes(truth.answer, following), truth
        assert not [option for option in truth.wrong if describes(option, following)], truth


def test_summaries_of_egoschema_hold_for_their_clips(sources: Path, takes: dict[str, list[Event]]) -> None:
    spans = read(sources / "egoschema/uid_to_ego4d.json")
    for truth in every_truth(sources, "egoschema"):
        events = [takes[truth.take_uid][index] for index in truth.events]
        span = spans[truth.key]
        assert span["starting_sec"] <= events[0].start_s < events[-1].end_s <= span["ending_sec"]
        assert len({truth.answer, *truth.wrong}) == 5
        if "most often" in truth.answer:
            handled = Counter(f"{event.colour} {event.shape}" for event in events)
            most = max(handled, key=handled.__getitem__)
            assert most in truth.answer
            assert [name for name in handled if handled[name] == handled[most]] == [most]
            assert not [option for option in truth.wrong if most in option]
        elif "different objects" in truth.answer:
            assert f" {len({event.shape for event in events})} " in truth.answer
        else:
            for option in (truth.answer, *truth.wrong):
                first, last = option.split(", and at the end ")
                holds = describes(first, events[0]) and describes(last, events[-1])
                assert holds == (option == truth.answer), truth


def test_answers_of_egotaskqa_hold_for_their_clips(sources: Path, takes: dict[str, list[Event]]) -> None:
    kinds: Counter[str] = Counter()
    for truth in every_truth(sources, "egotaskqa_direct", "egotaskqa_indirect"):
        start, end = (int(frame) / 24 for frame in Path(truth.video).stem.split("|")[2:])
        events = [event for event in takes[truth.take_uid] if start - 0.1 < event.start_s and event.end_s < end + 0.1]
        kind = egotaskqa_answer_holds(truth, events)
        assert kind, truth
        kinds[kind] += 1
    assert len(kinds) >= 5, kinds


def egotaskqa_answer_holds(truth: Truth, events: Take) -> str | None:
    """Returns the kind of question if its answer is true, None if it is not."""
    question, answer = truth.question, truth.answer
    if " right after the person " in question:
        done = question.split(" right after ")[1]
        (index,) = [place for place, event in enumerate(events) if describes(done, event)]
        return "after" if describes(answer, events[index + 1]) else None
    if " before the person " in question:
        first, then = question.removeprefix("Did the person").split(" before ")
        (early,) = [place for place, event in enumerate(events) if describes(first, event)]
        (late,) = [place for place, event in enumerate(events) if describes(then, event)]
        return "before" if (early < late) == (answer == "yes") else None
    if question.startswith("If the person did not"):
        cause, effect = question.split(", will ")
        needed = next(place for place, event in enumerate(events) if describes(cause, event))
        needing = next(place for place, event in enumerate(events) if describes(effect, event))
        return "counterfactual" if needed < needing and answer == "no" else None
    if "status" in question:
        last = [event for event in events if event.shape in question and event.verb in ("open", "close")][-1]
        return "status" if describes(answer, last) else None
    if "last action" in question:
        return "hand" if describes(answer, events[-1]) else None
    if question.startswith("Is the object"):
        return "colour" if (events[0].colour in question) == (answer == "yes") else None
    return "first" if describes(answer, events[0]) else None


def test_answers_of_openeqa_hold_for_their_episodes(sources: Path, takes: dict[str, list[Event]]) -> None:
    rows = {row["question_id"]: row for row in read(sources / "openeqa/data/open-eqa-v0.json")}
    truths = every_truth(sources, "openeqa")
    assert len(rows) == len(truths)
    assert len({row["category"] for row in rows.values()}) >= 5
    assert len({(truth.take_uid, truth.question) for truth in truths}) == len(truths)
    for truth in truths:
        events, (index,) = takes[truth.take_uid], truth.events
        event, answer = events[index], truth.answer
        # "at first" and "Which object" ask for one event; the others for the last that concerns the object.
        assert describes(answer, event), truth
        if "at the end" in truth.question:
            later = [other for other in events[index + 1 :] if other.shape == event.shape]
            if "open or closed" in truth.question:
                later = [other for other in later if other.verb in ("open", "close")]
            assert not later, truth
        for extra in rows[truth.key].get("extra_answers", []):
            assert describes(extra, event), truth


def test_the_same_settings_give_the_same_annotations(corpus: Path, sources: Path, run_python: RunPython) -> None:
    other = corpus.parent / "again"
    assert build(run_python, corpus, other, *SETTINGS[:-1], 1) == 0
    assert annotation_files(other) == annotation_files(sources)
    third = corpus.parent / "other_seed"
    assert build(run_python, corpus, third, *SETTINGS, "--seed", 1) == 0
    assert annotation_files(third) != annotation_files(sources)


def test_an_interrupted_build_is_finished(corpus: Path, sources: Path, run_python: RunPython) -> None:
    out = corpus.parent / "interrupted"
    shutil.copytree(sources, out)
    for name in ("ssv2", "egoplan", "vlnqa"):
        shutil.rmtree(out / name)
    (out / GROUND_TRUTH / "vlnqa.jsonl").unlink()
    record = read(out / RECORD)
    del record["sources"], record["provenance"]
    (out / RECORD).write_text(json.dumps(record))
    kept = (out / "egoschema").stat().st_mtime_ns
    assert build(run_python, corpus, out) == 0
    assert annotation_files(out) == annotation_files(sources)
    assert {path.name for path in out.iterdir()} == {path.name for path in sources.iterdir()}
    assert (out / "egoschema").stat().st_mtime_ns == kept


def test_a_killed_build_is_finished_by_the_same_command(corpus: Path, sources: Path, run_python: RunPython) -> None:
    out = corpus.parent / "killed"
    command = [sys.executable, "-m", "data_builders.synthetic.sources", "--corpus", corpus, "--out", out, *SETTINGS]
    process = subprocess.Popen([*map(str, command)], cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    while process.poll() is None and not list(out.glob("ssv2*")):
        time.sleep(0.01)
    workers = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    psutil.wait_procs(workers, timeout=30)
    assert "sources" not in read(out / RECORD)
    assert build(run_python, corpus, out) == 0
    assert annotation_files(out) == annotation_files(sources)
    assert {path.name for path in out.iterdir()} == {path.name for path in sources.iterdir()}


def test_what_cannot_be_built_is_said(corpus: Path, sources: Path, tmp_path: Path, run_python: RunPython) -> None:
    module = ("-m", "data_builders.synthetic.sources", "--corpus")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").touch()
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "synthetic.json").write_text(json.dumps({"config": {}}))
    for arguments, expected in (
        ((corpus, "--out", foreign), "is not empty"),
        ((corpus, "--out", sources, "--seed", 7), "other settings"),
        ((tmp_path / "nothing", "--out", tmp_path / "a"), "not found"),
        ((unfinished, "--out", tmp_path / "b"), "not finished"),
        ((corpus, "--out", tmp_path / "c", "--workers", 0), "--workers"),
    ):
        done = run_python(*module, *arguments)
        assert done.returncode not in (0, 1), done.stderr
        assert expected in done.stderr
        assert "Traceback" not in done.stderr
    assert list(foreign.iterdir()) == [foreign / "thesis.tex"]
