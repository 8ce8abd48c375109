"""EgoClip as a clip table: every row of a made-up egoclip.csv goes where the rules say, and init_ego trains on it."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset
from hypothesis import given
from hypothesis import strategies as st

from data_builders.egoclip.__main__ import main
from data_builders.egoclip.build import EgoClipOptions, build
from data_builders.egoclip.layouts import longest_part
from data_builders.egoclip.narrations import is_unsure, narration_text, subject_of
from exo2ego.data.clips import read_clips
from exo2ego.errors import DataError
from exo2ego.records import Clip
from exo2ego.storage import hash_file
from tests.conftest import RunPython
from tests.data_builders.raw_egoclip import (
    COLUMNS,
    DURATION_S,
    TRAPS,
    UIDS,
    egoclip_row,
    write_egoclip,
    write_egoclip_rows,
)
from tests.shared_data import REPOSITORY, shared_path
from tests.tiny_corpus import SECONDS, TinyCorpus, make_corpus

MODULE = "data_builders.egoclip"


def built(root: Path, out: Path, **changes: Any) -> tuple[dict[str, Any], list[Clip]]:
    summary = build(EgoClipOptions.model_validate({"root": root, "out": out, **changes}))
    clips = list(read_clips(out / "clips.arrow"))
    assert clips == list(read_clips(out / "clips.parquet"))
    return summary, clips


def spans(clips: list[Clip]) -> dict[str, tuple[float, float]]:
    return {clip.clip_id: (clip.start_s, clip.end_s) for clip in clips}


def test_every_row_goes_where_the_rules_say(tmp_path: Path) -> None:
    write_egoclip(tmp_path)
    summary, clips = built(tmp_path, tmp_path / "out")
    assert spans(clips) == {
        "egoclip/0": (2.967651, 3.721266),
        "egoclip/1": (0.0, 0.576808),
        "egoclip/2": (1300.2, DURATION_S),
        "egoclip/5": (7.0, 7.0),
        "egoclip/6": (599.5, 601.5),
    }
    assert [clip.text for clip in clips] == [
        "C picks a cup",
        "A man X opens the door",
        '"C says hello to the something',
        "C drops the something in the bin",
        "C walks around",
    ]
    assert [clip.subject for clip in clips] == ["C", "O", "C", "C", ""]
    assert [clip.unsure for clip in clips] == [False, False, True, True, False]
    assert [clip.annotator for clip in clips] == [*["narration_pass_1"] * 3, "narration_pass_2", "narration_pass_1"]
    assert [clip.take_uid for clip in clips] == [UIDS[0], UIDS[0], UIDS[1], UIDS[0], UIDS[0]]
    assert clips[0].timestamp_s == pytest.approx(3.3444585)
    assert {(clip.ego_video, clip.take_name) for clip in clips} == {(f"v1/full_scale/{uid}.mp4", uid) for uid in UIDS}
    assert all(clip.exo_videos == [] and clip.ego_visible is None for clip in clips)
    assert summary["dropped"] == {"ends_before_it_starts": 1, "no_text": 1, "outside_the_video": 1}
    assert summary["noted"] == {"ended_after_the_video": 1, "missing_video": 5, "started_before_the_video": 1}
    assert summary["facts"]["rows read"] == len(TRAPS) == len(clips) + sum(summary["dropped"].values())


def test_the_summary_tells_the_paper_the_inputs_and_the_outputs(tmp_path: Path) -> None:
    write_egoclip(tmp_path)
    summary, clips = built(tmp_path, tmp_path / "out")
    out = tmp_path / "out"
    assert json.loads((out / "egoclip.summary.json").read_text()) == summary
    assert summary["paper"][0]["paper_rows"] == 3_800_000
    assert summary["facts"]["rows of the official file"] == 3_847_723
    seconds = [clip.end_s - clip.start_s for clip in clips]
    assert summary["facts"]["mean seconds"] == pytest.approx(sum(seconds) / 5, abs=1e-4)
    assert summary["facts"]["share below 1 s"] == pytest.approx(0.8)
    assert summary["provenance"]["inputs"] == {"egoclip.csv": hash_file(tmp_path / "egoclip.csv")}
    assert summary["tables"]["clips"]["files"]["clips.arrow"] == hash_file(out / "clips.arrow")
    assert sorted(path.name for path in out.iterdir()) == ["clips.arrow", "clips.parquet", "egoclip.summary.json"]


def test_the_table_loads_with_datasets(tmp_path: Path) -> None:
    write_egoclip(tmp_path)
    _, clips = built(tmp_path, tmp_path / "out")
    loaded = load_dataset("parquet", data_files=str(tmp_path / "out/clips.parquet"), cache_dir=str(tmp_path / "cache"))
    assert loaded["train"]["text"][:] == [clip.text for clip in clips]


def test_the_made_up_file_of_the_specification_is_read(tmp_path: Path) -> None:
    summary, clips = built(shared_path("data/synthetic"), tmp_path)
    assert [clip.text for clip in clips] == ["C picks a cup from the floor", "A man X opens the door"]
    assert summary["dropped"] == {"outside_the_video": 1}


@pytest.mark.parametrize(
    ("text", "policy", "expected"),
    [
        ("#C C picks a #unsure", "remove", "C picks a something"),
        ("#C C picks a #unsure", "spell-out", "Camera wearer picks a something"),
        ("#C C picks a #unsure", "keep", "#C C picks a #unsure"),
        ("#O A man X waves", "spell-out", "Other person A man X waves"),
        ("# C C picks", "remove", "C picks"),
        ("#cC opens", "remove", "#cC opens"),
        ("#Costs nothing", "remove", "#Costs nothing"),
        ("C picks 3", "remove", "C picks 3"),
        ("#C  C   picks", "spell-out", "Camera wearer picks"),
    ],
)
def test_tags_follow_the_policy(text: str, policy: Any, expected: str) -> None:
    assert narration_text(text, policy) == expected


def test_tags_tell_who_acts_and_what_was_unclear() -> None:
    assert [subject_of(text) for text in ("#C C a", "#O A b", "# o b", "C a", "#Costs")] == ["C", "O", "O", "", ""]
    assert [is_unsure(text) for text in ("a #unsure", "a #Unsure b", "unsure", "#unsured")] == [
        True,
        True,
        False,
        False,
    ]


def test_unclear_narrations_can_be_left_out(tmp_path: Path) -> None:
    write_egoclip(tmp_path)
    summary, clips = built(tmp_path, tmp_path / "out", drop_unsure=True)
    assert "egoclip/2" not in spans(clips)
    assert summary["dropped"]["unsure"] == 2


def test_a_clip_lies_in_the_chunk_that_shows_most_of_it(tmp_path: Path) -> None:
    lines = [
        egoclip_row(0, 10, 11),
        egoclip_row(1, 599, 601.5),  # the second chunk shows more
        egoclip_row(2, 598, 601),
        egoclip_row(3, 599, 601),  # as much on both sides: the first
        egoclip_row(4, 600, 601),  # begins at the border: whole
        egoclip_row(5, 599, 600),  # ends at it: whole
        egoclip_row(6, 1299, 1310),
    ]
    write_egoclip_rows(tmp_path, lines)
    summary, clips = built(tmp_path, tmp_path / "out", layout="egovlp")
    first, second, third = (f"{UIDS[0]}/{chunk}.mp4" for chunk in range(3))
    assert [(clip.ego_video, clip.start_s, clip.end_s) for clip in clips] == [
        (first, 10, 11),
        (second, 0, 1.5),
        (first, 598, 600),
        (first, 599, 600),
        (second, 0, 1),
        (first, 599, 600),
        (third, 99, 100.5),
    ]
    assert clips[1].timestamp_s == 0.25
    assert summary["noted"]["cut_at_the_border_of_a_chunk"] == 3
    _, clips = built(tmp_path, tmp_path / "out", layout="lavila")
    names = [0, 600, 300, 300, 600, 300, 1200]
    assert [clip.ego_video for clip in clips] == [f"{UIDS[0]}.mp4/{name}.mp4" for name in names]


@given(
    start_s=st.floats(0, 4000),
    length_s=st.floats(0, 1500),
    video_s=st.floats(0.1, 4000),
    chunk_s=st.sampled_from([300, 600]),
)
def test_a_part_lies_inside_its_clip_and_its_chunk(
    start_s: float, length_s: float, video_s: float, chunk_s: int
) -> None:
    start_s = min(start_s, video_s)
    end_s = min(start_s + length_s, video_s)
    part = longest_part(start_s, end_s, video_s, chunk_s)
    offset_s = part.chunk * chunk_s
    assert 0 <= part.chunk < math.ceil(video_s / chunk_s)
    assert start_s - 1e-5 <= part.start_s + offset_s <= part.end_s + offset_s <= end_s + 1e-5
    assert part.end_s <= chunk_s + 1e-5
    assert part.is_whole == (end_s - start_s - (part.end_s - part.start_s) < 1e-5) or not part.is_whole
    num_chunks = math.floor(end_s / chunk_s) - math.floor(start_s / chunk_s) + 1
    assert part.end_s - part.start_s >= (end_s - start_s) / num_chunks - 1e-5


def test_videos_are_found_where_ego4d_puts_them(tmp_path: Path) -> None:
    write_egoclip(tmp_path)
    videos = tmp_path / "ego4d"
    (videos / "v2" / "video_540ss").mkdir(parents=True)
    (videos / f"v2/video_540ss/{UIDS[0]}.mp4").touch()
    summary, clips = built(tmp_path, tmp_path / "out", videos=videos, missing_videos="drop")
    assert {clip.ego_video for clip in clips} == {f"v2/video_540ss/{UIDS[0]}.mp4"}
    assert summary["dropped"]["missing_video"] == 1
    with pytest.raises(DataError, match=UIDS[1]):
        built(tmp_path, tmp_path / "out", videos=videos, missing_videos="stop")


def test_a_row_that_is_left_out_is_not_noted_as_kept(tmp_path: Path) -> None:
    lines = [egoclip_row(0, 1, 2), egoclip_row(1, -1, 2, video_uid=UIDS[1]), egoclip_row(2, 599, 1500)]
    write_egoclip_rows(tmp_path, lines)
    (tmp_path / UIDS[0]).mkdir()
    (tmp_path / UIDS[0] / "0.mp4").touch()
    summary, clips = built(tmp_path, tmp_path / "out", layout="egovlp", missing_videos="drop")
    assert (len(clips), summary["dropped"], summary["noted"]) == (1, {"missing_video": 2}, {})


def test_a_folder_of_chunks_is_no_whole_video(tmp_path: Path) -> None:
    write_egoclip_rows(tmp_path, [egoclip_row(0, 1, 2)])
    (tmp_path / f"{UIDS[0]}.mp4").mkdir()
    (tmp_path / f"{UIDS[0]}.mp4" / "0.mp4").touch()
    assert built(tmp_path, tmp_path / "out")[0]["noted"] == {"missing_video": 1}
    assert built(tmp_path, tmp_path / "out", layout="lavila")[0]["noted"] == {}


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ('"#C C says ""hello"""', 'C says "hello"'),
        ('"#C C walks"', "C walks"),
        ('"a" and "b"', '"a" and "b"'),
        ('"#C C walks', '"C walks'),
        ('#C C reads "Exit"', 'C reads "Exit"'),
    ],
)
def test_a_field_that_is_quoted_as_a_whole_loses_its_quotes(tmp_path: Path, field: str, text: str) -> None:
    write_egoclip_rows(tmp_path, [egoclip_row(0, 1, 2, field)])
    _, (clip,) = built(tmp_path, tmp_path / "out")
    assert clip.text == text


def test_rows_that_are_none_are_counted_up_to_a_share(tmp_path: Path) -> None:
    good = [egoclip_row(index, index, index + 1) for index in range(198)]
    bad = [egoclip_row(198, 1, 2, "a\tb"), egoclip_row(199, 1, 2, video_dur="nan")]
    write_egoclip_rows(tmp_path, [*good[:50], bad[0], *good[50:], bad[1]])
    summary, clips = built(tmp_path, tmp_path / "out")
    assert (len(clips), summary["dropped"], summary["facts"]["rows read"]) == (198, {"not_a_valid_row": 2}, 200)
    told = summary["examples"]["not_a_valid_row"]
    assert "line 52: " in told[0]
    assert "expected 11 fields, got 12" in told[0]
    assert "video_dur" in told[1]
    with pytest.raises(DataError, match=r"2 of 200 rows are not valid, max_bad_share is 0\.009; the first: .*line 52"):
        built(tmp_path, tmp_path / "again", max_bad_share=0.009)
    assert list((tmp_path / "again").iterdir()) == []


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "lacks the column"),
    "header alone": ("\t".join(COLUMNS).encode(), "no row was kept"),
    "separated by commas": ("\n".join([",".join(COLUMNS), "1,2"]).encode(), "lacks the column"),
    "one column fewer": ("\t".join(COLUMNS[:7] + COLUMNS[8:]).encode() + b"\n", "lacks the column clip_end"),
    "wrong encoding": ("\t".join(COLUMNS).encode() + b"\n\xff\xfe", "is not UTF-8"),
    "long line": ("\t".join(COLUMNS).encode() + b"\n" + b"x" * 3_000_000, "line 2: .* a line of more than"),
    "every row cut": ("\t".join(COLUMNS).encode() + b"\n1\t2\n1\t2\n", "2 of 2 rows are not valid"),
    "path as a uid": (
        "\n".join(["\t".join(COLUMNS), egoclip_row(0, 1, 2, video_uid="../../etc/passwd")]).encode(),
        "line 2: video_uid: .*cannot name a file",
    ),
    "same index twice": (
        "\n".join(["\t".join(COLUMNS), *[egoclip_row(7, 1, 2)] * 2]).encode(),
        "line 3: clip_idx 7 is given twice",
    ),
    "huge index": (
        "\n".join(["\t".join(COLUMNS), egoclip_row(1 << 40, 1, 2)]).encode(),
        "1 of 1 rows are not valid",
    ),
}


@pytest.mark.parametrize("fault", BAD_FILES)
def test_a_bad_file_is_a_message_and_leaves_the_former_build(
    tmp_path: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content, message = BAD_FILES[fault]
    out = tmp_path / "out"
    write_egoclip(tmp_path)
    assert main(["--root", str(tmp_path), "--out", str(out)]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (tmp_path / "egoclip.csv").write_bytes(content)
    capsys.readouterr()
    assert main(["--root", str(tmp_path), "--out", str(out)]) == 3
    error = " ".join(capsys.readouterr().err.split())
    assert "egoclip.csv" in error or "no row was kept" in error
    with pytest.raises(DataError, match=message):
        build(EgoClipOptions(root=tmp_path, out=out))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_another_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "takes.json").touch()
    with pytest.raises(DataError, match=r"egoclip\.csv; the folder holds takes\.json"):
        built(tmp_path, tmp_path / "out")


def test_batches_share_their_dictionaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_builders.egoclip.build.BATCH_ROWS", 4)
    lines = [egoclip_row(index, index, index + 1, video_uid=f"uid{index // 3}") for index in range(30)]
    write_egoclip_rows(tmp_path, lines, end="\n")
    _, clips = built(tmp_path, tmp_path / "out")
    assert [clip.ego_video for clip in clips] == [f"v1/full_scale/uid{index // 3}.mp4" for index in range(30)]


def test_memory_does_not_grow_with_the_file(tmp_path: Path, run_python: RunPython) -> None:
    peaks = []
    for num_rows in (35_000, 105_000):
        root = tmp_path / str(num_rows)
        lines = [egoclip_row(index, index / 200, index / 200 + 1, video_dur=9000) for index in range(num_rows)]
        write_egoclip_rows(root, lines)
        code = (
            "import pathlib, re; from data_builders.egoclip.__main__ import main\n"
            f"assert main(['--root', {str(root)!r}, '--out', {str(root / 'out')!r}]) == 0\n"
            "print(re.search(r'VmHWM:\\s+(\\d+)', pathlib.Path('/proc/self/status').read_text())[1])"
        )
        done = run_python("-c", code)
        peaks.append(int(done.stdout.splitlines()[-1]) / 1024)
    assert peaks[1] < peaks[0] + 25, peaks  # MB; the rows of the larger file would take 60 more


def test_a_killed_build_leaves_the_former_one(tmp_path: Path) -> None:
    write_egoclip(tmp_path)
    out = tmp_path / "out"
    _, before = built(tmp_path, out)
    write_egoclip_rows(tmp_path, [egoclip_row(index, 1, 2) for index in range(150_000)])
    command = [sys.executable, "-m", MODULE, "--root", str(tmp_path), "--out", str(out)]
    process = subprocess.Popen(command, cwd=REPOSITORY)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 100_000 for path in out.glob("*.partial-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert list(read_clips(out / "clips.arrow")) == before
    write_egoclip(tmp_path)
    assert built(tmp_path, out)[1] == before
    assert sorted(path.name for path in out.iterdir()) == ["clips.arrow", "clips.parquet", "egoclip.summary.json"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> TinyCorpus:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def test_the_ego_branch_is_initialised_on_it(corpus: TinyCorpus, tmp_path: Path, run_python: RunPython) -> None:
    from tests.tiny_runs import metrics, run

    lines = [
        egoclip_row(index, index * 0.3 - 0.2, index * 0.3 + 0.2, video_uid=f"take{index % 2}_aria", video_dur=SECONDS)
        for index in range(8)
    ]
    write_egoclip_rows(tmp_path, lines)
    out = tmp_path / "out"
    done = run_python(
        "-m", MODULE, "--root", tmp_path, "--videos", corpus.root, "--out", out, "--missing-videos", "stop"
    )
    assert done.returncode == 0, done.stderr
    assert "clips: 8 rows" in done.stdout
    table = dataclasses.replace(corpus, clips=out / "clips.arrow")
    assert run("init_ego", table, tmp_path / "run", "max_steps=2") == 0
    assert [math.isfinite(row["loss"]) for row in metrics(tmp_path / "run")] == [True, True]
