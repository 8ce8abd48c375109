"""The clip store holds, for every span, the frames that training reads from the video, and says what it lacks."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import webdataset

from data_builders.clip_store import account, build, engines, plan, requests, source_video
from data_builders.clip_store.__main__ import main
from data_builders.clip_store.plan import Plan
from data_builders.clip_store.video_step import VideoStep
from exo2ego.data.clip_store import ClipStore, StoreDescription
from exo2ego.data.decoders import FrameArray
from exo2ego.data.decoders.pyav import PyAVReader
from exo2ego.data.pixels import CLIP_MEAN, resize
from exo2ego.data.spans import Span
from exo2ego.data.video import read_timed_frames
from exo2ego.errors import ConfigError, DataError, VideoError
from exo2ego.storage import read_jsonl, write_jsonl
from tests.data_builders.clip_store_corpus import (
    IMAGE_SIZE,
    NUM_FRAMES,
    SPANS,
    files_of,
    options_for,
    row,
    run_in_place,
    write_corpus,
)
from tests.tiny_corpus import write_clips

MAX_MEAN_LEVELS = 6.0  # 4:2:0 chroma of the sharp texture; a neighbouring frame differs by 40


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(autouse=True)
def _in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    run_in_place(monkeypatch)


@pytest.fixture(scope="module")
def store(corpus: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    with pytest.MonkeyPatch.context() as patch:
        run_in_place(patch)
        out = tmp_path_factory.mktemp("made") / "store"
        assert isinstance(build.build(options_for(*corpus, out, shard_mb=0.2)), StoreDescription)
    return ClipStore(out)


def spans_of(conversations: Path) -> list[Span]:
    return [request.span for request in requests.read_requests([conversations], ["ego"])]


def source_of(root: Path, span: Span) -> tuple[FrameArray, list[float]] | str:
    """What reading the video gives: frames and their times, or the reason why there are none."""
    try:
        return read_timed_frames(
            root / span.video, span.start_s, span.end_s, NUM_FRAMES, frame_rate=span.frame_rate, within=root
        )
    except VideoError as error:
        return error.reason


def test_every_span_gives_the_frames_or_the_error_of_its_video(corpus: tuple[Path, Path], store: ClipStore) -> None:
    root, conversations = corpus
    outcomes: Counter[str] = Counter()
    for span in spans_of(conversations):
        source = source_of(root, span)
        if isinstance(source, str):
            with pytest.raises(VideoError) as caught:
                store.read(span)
            assert caught.value.reason == source, span
            outcomes[source] += 1
            continue
        frames, times_s = source
        stored = store.read(span)
        assert stored.timestamps_s == times_s, span
        assert stored.source_size == frames.shape[1:3]
        expected = resize(frames, IMAGE_SIZE, "pad", mean=CLIP_MEAN).permute(0, 2, 3, 1).numpy()
        assert numpy.abs(stored.frames.astype(int) - expected).mean() < MAX_MEAN_LEVELS, span
        outcomes["read"] += 1
    assert outcomes["read"] > 80
    assert {"empty_span", "truncated", "damaged", "unreadable", "missing", "forbidden_path", "no_video_stream"} <= set(
        outcomes
    )


def test_the_account_sums_up_and_names_every_clip_that_is_not_stored(
    corpus: tuple[Path, Path], store: ClipStore
) -> None:
    told = store.description.account
    rows = list(read_jsonl(corpus[1]))
    failures = list(read_jsonl(store.folder / account.FAILURES_FILE))
    assert told["requested"] == len(rows) == told["written"] + told["outside"] + told["unreadable"]
    assert len(failures) == told["outside"] + told["unreadable"]
    assert sum(told["unreadable_by_reason"].values()) == told["unreadable"]
    assert told["distinct"] == len(set(spans_of(corpus[1]))) == store.index.num_rows
    assert told["distinct_written"] == sum(shard.num_clips for shard in store.description.shards)
    assert Counter(failure["state"] for failure in failures) == {
        "outside": told["outside"],
        "unreadable": told["unreadable"],
    }
    assert {failure["id"] for failure in failures} >= {f"gone.mp4/{number}" for number in range(len(SPANS))}


def test_identical_spans_are_stored_once_and_no_frame_is_decoded_twice(
    corpus: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversations = tmp_path / "some.jsonl"
    write_jsonl(conversations, [row(str(n), "gop12.mp4", *span) for n, span in enumerate(SPANS[1:8])])
    resized: list[int] = []
    groups: list[int] = []
    decode = PyAVReader.read_group

    def counted(self: PyAVReader, group: int, ticks: Any) -> Any:
        groups.append(group)
        resized.extend(ticks)
        return decode(self, group, ticks)

    monkeypatch.setattr(plan, "SAMPLED_VIDEOS", 0)
    monkeypatch.setattr(PyAVReader, "read_group", counted)
    build.build(options_for(corpus[0], conversations, tmp_path / "store"))
    made = ClipStore(tmp_path / "store")
    assert made.index.num_rows == 6
    assert len(groups) == len(set(groups)), "a group of pictures was decoded twice"
    assert groups == sorted(groups)
    times_s = {time_s for span in set(spans_of(conversations)) for time_s in made.read(span).timestamps_s}
    assert len(resized) == len(set(resized)) == len(times_s)


def test_many_spans_are_read_in_several_passes(
    corpus: tuple[Path, Path], store: ClipStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_video, "MAX_FRAMES_HELD", 2 * NUM_FRAMES)
    build.build(options_for(*corpus, tmp_path / "store", shard_mb=0.2))
    again = ClipStore(tmp_path / "store")
    for span in spans_of(corpus[1])[:20]:
        try:
            expected = store.read(span)
        except VideoError:
            continue
        assert numpy.array_equal(again.read(span).frames, expected.frames)


def test_shards_are_readable_by_webdataset(store: ClipStore) -> None:
    shards = [str(store.folder / shard.name) for shard in store.description.shards]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False))
    assert len(samples) == store.description.account["distinct_written"]
    assert Counter(len(sample["mp4"]) for sample in samples) == Counter(store.index["size"].drop_null().to_pylist())
    told = json.loads(samples[0]["json"])
    span = Span(*(told[name] for name in Span._fields))
    assert span.key == samples[0]["__key__"]
    assert store.read(span).timestamps_s == told["timestamps_s"]


def test_small_shards_hold_the_same_clips(corpus: tuple[Path, Path], tmp_path: Path, store: ClipStore) -> None:
    parts = [path for path in store.folder.iterdir() if path.suffix == ".tar"]
    assert len(parts) == len(store.description.shards) > 1
    assert all(shard.bytes <= 200_000 for shard in store.description.shards)
    whole = tmp_path / "whole"
    build.build(options_for(*corpus, whole, shard_mb=999))
    assert len(ClipStore(whole).description.shards) == 1
    drop = ["shard", "offset"]
    assert ClipStore(whole).index.drop_columns(drop) == store.index.drop_columns(drop)


def test_clip_tables_and_questions_are_inputs_too(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    from exo2ego.records import Clip

    clip = Clip(
        clip_id="take/0/0", take_uid="u", take_name="take", start_s=0.0, end_s=0.5, timestamp_s=0.2, text="C",
        annotator="1", ego_video="gop12.mp4", exo_videos=["one_gop.mp4", "vp9.webm"],
    )  # fmt: skip
    write_clips(tmp_path / "clips.parquet", [clip])
    question = {
        "id": "q",
        "task": "t",
        "source": "s",
        "video": "gop12.mp4",
        "start": 0.0,
        "end": 1.0,
        "observation": 1.7,
        "question": "?",
        "options": ["a", "b"],
        "answer_index": 0,
        "meta": {"exo_videos": ["late.mp4"]},
    }
    write_jsonl(tmp_path / "questions.jsonl", [question])
    files = [tmp_path / "clips.parquet", tmp_path / "questions.jsonl"]
    asked = [(request.record_id, request.span.video) for request in requests.read_requests(files, ["ego", "exo"])]
    assert asked == [
        *(("take/0/0", video) for video in ("gop12.mp4", "one_gop.mp4", "vp9.webm")),
        *(("q", video) for video in ("gop12.mp4", "late.mp4")),
    ]
    assert [request.span.video for request in requests.read_requests(files, ["exo"])] == [
        *("one_gop.mp4", "vp9.webm", "late.mp4")
    ]
    build.build(options_for(corpus[0], files[1], tmp_path / "store"))
    stored = ClipStore(tmp_path / "store").read(Span("gop12.mp4", 0.0, 1.0, None, 1.7))
    assert stored.timestamps_s[-1] == pytest.approx(1.7, abs=0.02)
    assert stored.timestamps_s[-2] < 1.0


def test_a_dry_run_shows_the_plan_and_writes_nothing(
    corpus: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "store"
    flags = ["--clips", corpus[1], "--media-root", corpus[0], "--out", out, "--dry-run", "--num-frames", 4]
    assert main([str(flag) for flag in flags]) == 0
    told = capsys.readouterr().out
    assert "163 clips, 145 distinct, of 18 videos, 2 of them are not there" in told
    assert "per clip" in told
    assert not out.exists()


def test_the_estimate_is_near_what_is_written(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    some = tmp_path / "some.jsonl"
    write_jsonl(some, [row(f"{n}", "gop12.mp4", n / 30, n / 30 + 0.5) for n in range(30)])
    planned = build.build(options_for(corpus[0], some, tmp_path / "store", dry_run=True))
    assert isinstance(planned, Plan)
    made = build.build(options_for(corpus[0], some, tmp_path / "store"))
    assert isinstance(made, StoreDescription)
    assert planned.num_spans * planned.clip_bytes == pytest.approx(sum(s.bytes for s in made.shards), rel=0.3)


def test_a_disk_that_is_too_small_is_refused_unless_told(
    corpus: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "free_bytes", lambda folder: 1000)
    with pytest.raises(DataError, match=r"only 0\.00 GB are free"):
        build.build(options_for(*corpus, tmp_path / "store"))
    assert not list((tmp_path / "store").rglob("*.tar"))
    build.build(options_for(*corpus, tmp_path / "store", ignore_disk_space=True))
    assert ClipStore(tmp_path / "store").description.shards


def test_another_runs_output_is_never_continued(corpus: tuple[Path, Path], tmp_path: Path, store: ClipStore) -> None:
    with pytest.raises(DataError, match=r"image_size: 96 there, 64 now"):
        build.build(options_for(*corpus, store.folder, shard_mb=0.2, image_size=64))
    assert build.build(options_for(*corpus, store.folder, shard_mb=0.2)) == store.description
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match="holds files of something else"):
        build.build(options_for(*corpus, tmp_path))


def test_too_many_failures_stop_the_run_and_a_repaired_file_is_read_again(
    corpus: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "videos"
    root.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (root / name).write_bytes((corpus[0] / "gop12.mp4").read_bytes())
    (root / "c.mp4").write_bytes(b"no video")
    some = tmp_path / "some.jsonl"
    write_jsonl(some, [row(name, f"{name}.mp4", 0.0, 0.5) for name in "abc"])
    settings = {"max_failure_rate": 0.1}
    with pytest.raises(DataError, match=r"1 of 3 distinct clips cannot be stored"):
        build.build(options_for(root, some, tmp_path / "store", **settings))
    listed = list(read_jsonl(tmp_path / "store" / account.FAILURES_FILE))
    assert [(failure["id"], failure["reason"]) for failure in listed] == [("c", "unreadable")]
    (root / "c.mp4").write_bytes((corpus[0] / "vp9.webm").read_bytes())
    read: list[str] = []
    run = VideoStep.run
    monkeypatch.setattr(VideoStep, "run", lambda self, job, beat: (read.append(job.video), run(self, job, beat))[1])
    monkeypatch.setattr(plan, "SAMPLED_VIDEOS", 0)
    made = build.build(options_for(root, some, tmp_path / "store", **settings))
    assert isinstance(made, StoreDescription)
    assert made.account["written"] == 3
    assert read == ["c.mp4"], "what was stored is kept"


@pytest.mark.parametrize("damage", ["shard", "index", "short", "gone"])
def test_verify_finds_damage(
    corpus: tuple[Path, Path], tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    some = tmp_path / "some.jsonl"
    write_jsonl(some, [row(f"{n}", "gop12.mp4", 0.1 * n, 0.1 * n + 0.5) for n in range(5)])
    out = tmp_path / "store"
    build.build(options_for(corpus[0], some, out))
    assert main(["--out", str(out), "--verify"]) == 0
    assert "sound: 1 shards, 5 clips" in capsys.readouterr().out
    path = out / ("index.arrow" if damage == "index" else "clips-000000.tar")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data[: len(data) // 2] if damage == "short" else data)
    assert main(["--out", str(out), "--verify"]) == DataError.exit_code
    assert path.name in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--media-root", "."], "give --clips FILE and --media-root DIR"),
        (["--clips", "gone.jsonl", "--media-root", "."], "gone.jsonl: --clips: no such file"),
        (["--clips", "pyproject.toml", "--media-root", "gone"], "--media-root is not a folder"),
        (["--clips", "pyproject.toml", "--media-root", "."], "line 1 of the file of conversations"),
        (["--clips", "LICENSE", "--media-root", ".", "--image-size", "15"], "image_size"),
    ],
)
def test_wrong_input_is_one_message(
    flags: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*flags, "--out", str(tmp_path / "store")]) in (ConfigError.exit_code, DataError.exit_code)
    shown = capsys.readouterr().err
    assert told in shown
    assert "Traceback" not in shown
    assert not (tmp_path / "store").exists()


def test_ray_is_an_extra(corpus: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'exo2ego\[ray\]'"):
        build.build(options_for(*corpus, tmp_path / "store", engine="ray"))


def test_files_do_not_depend_on_the_run(corpus: tuple[Path, Path], tmp_path: Path, store: ClipStore) -> None:
    build.build(options_for(*corpus, tmp_path / "store", shard_mb=0.2, workers=3))
    assert files_of(tmp_path / "store") == files_of(store.folder)
