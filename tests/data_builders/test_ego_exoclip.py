"""The Ego-ExoClip builder from raw files to table, statistics and report."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from data_builders.ego_exoclip.__main__ import main
from data_builders.ego_exoclip.build import OUTPUTS, BuildOptions, build
from data_builders.ego_exoclip.egoexo4d import FLAGS, take_from_row
from exo2ego.data.clips import ClipTable, read_clips
from tests.conftest import RunPython
from tests.data_builders.ego_exoclip_corpus import add_videos, annotation, described, take, write_corpus
from tests.shared_data import shared_path


def built(root: Path, out: Path, **options: Any) -> tuple[ClipTable, dict[str, Any]]:
    statistics = build(BuildOptions(root=root, out=out, **{"check_files": False, **options}))
    return read_clips(out / "clips.parquet"), statistics


def two_annotators() -> dict[str, list[dict[str, Any]]]:
    """Unsorted narrations, equal timestamps, both kinds of flags."""
    first = annotation(0, [described(9.0), described(3.0, "C holds it."), described(1.0), described(3.0, "C moves.")])
    second = annotation(1, [described(9.5, unsure="0"), described(0.5, "A man X walks.", subject="O", ego_visible="0")])
    return {"uid-0": [first, second]}


def test_rows_of_the_table(tmp_path: Path) -> None:
    clips, statistics = built(write_corpus(tmp_path, [take(0)], two_annotators()), tmp_path / "out", alpha=1.92)
    assert [clip.timestamp_s for clip in clips] == [0.5, 1.0, 3.0, 3.0, 9.0, 9.5]
    assert [clip.clip_id for clip in clips] == [
        f"cmu_bike00_1/{rest}" for rest in ("1/0", "0/0", "0/1", "0/2", "0/3", "1/1")
    ]
    first = clips[0]
    half_s = 1.8 / 3.84
    assert (first.start_s, first.end_s) == (pytest.approx(0.5 - half_s), pytest.approx(0.5 + half_s))
    assert (first.text, first.subject, first.ego_visible, first.unsure) == ("A man X walks.", "O", False, False)
    assert (first.university, first.scenario, first.task) == ("cmu", "Bike Repair", "Remove a Wheel")
    folder = "takes/cmu_bike00_1/frame_aligned_videos/downscaled/448"
    assert first.ego_video == f"{folder}/aria01_214-1.mp4"
    assert first.exo_videos == [f"{folder}/cam01.mp4", f"{folder}/cam02.mp4"]
    assert [clip.text for clip in clips[2:4]] == ["C holds it.", "C moves."]  # a tie: by text
    assert (statistics["pairs"], statistics["videos"], statistics["takes"]) == (12, 3, 1)
    assert statistics["beta_s"]["median"] == pytest.approx(1.8)
    assert statistics["other_grouping"]["beta_s"]["defined"] == 2


def test_annotators_alone_have_their_own_neighbours(tmp_path: Path) -> None:
    clips, statistics = built(
        write_corpus(tmp_path, [take(0)], two_annotators()), tmp_path / "out", group_by="annotation", alpha=4.5
    )
    assert statistics["alpha_s"] == 4.5
    by_id = {clip.clip_id: clip for clip in clips}
    assert by_id["cmu_bike00_1/1/0"].end_s == 1.5  # β 9, past the narration of the other annotator at 1.0
    assert by_id["cmu_bike00_1/0/0"].start_s == pytest.approx(1 - 8 / 3 / 9)


def test_the_three_filters_and_the_cameras(tmp_path: Path) -> None:
    takes = [take(number) for number in range(8)]
    takes[5]["capture"]["cameras"][0]["is_ego"] = "false"
    takes[6]["frame_aligned_videos"]["cam01"]["0"]["relative_path"] = None
    takes[6]["frame_aligned_videos"]["cam02"] = {}
    takes[7]["duration_sec"] = None
    splits = {f"uid-{number}": "train" for number in (0, 1, 2, 5, 6, 7, 99)} | {"uid-3": "val"}
    narrated = [annotation(0, [described(1.0), described(2.0)])]
    annotations = {uid: narrated for uid in [*splits, "uid-4"] if uid != "uid-1"}
    annotations["uid-2"] = [annotation(0, [described(1.0)], rejected=True), annotation(1, [described(2.0, " ")])]
    clips, statistics = built(write_corpus(tmp_path, takes, annotations, splits), tmp_path / "out")
    assert {clip.take_uid for clip in clips} == {"uid-0"}
    dropped = [json.loads(line) for line in (tmp_path / "out/dropped.jsonl").read_text().splitlines()]
    assert {row["take_uid"]: row["reason"] for row in dropped if row["kind"] == "take"} == {
        "uid-1": "no_narrations",
        "uid-2": "no_narrations",
        "uid-3": "val_split",
        "uid-4": "no_split",
        "uid-5": "no_ego_camera",
        "uid-6": "no_exo_camera",
        "uid-7": "no_duration",
        "uid-99": "no_uid_mapping",
    }
    assert statistics["dropped"]["annotation"] == {"rejected": 1}
    assert statistics["dropped"]["narration"] == {"empty_text": 1}


def test_head_mounted_gopros_phones_and_pseudo_cameras_are_no_exo_view() -> None:
    row = take(0, exo=("gp06", "gp01", "gp05", "gp02"), root_dir="upenn_0101_Dance_1_1")
    next(camera for camera in row["capture"]["cameras"] if camera["cam_id"] == "gp05")["is_ego"] = "True"
    row["capture"]["cameras"][0]["cam_id"] = "Aria02"
    row["frame_aligned_videos"]["Aria02"] = row["frame_aligned_videos"].pop("aria01")
    parsed = take_from_row(row, "full")
    assert parsed.ego_video == "takes/upenn_0101_Dance_1_1/frame_aligned_videos/aria01_214-1.mp4"
    assert [Path(path).stem for path in parsed.exo_videos] == ["gp01", "gp02", "gp06"]


def test_a_second_aria_is_noted_and_null_flags_are_exo(tmp_path: Path) -> None:
    row = take(0)
    row["capture"]["cameras"][1]["is_ego"] = None
    row["capture"]["cameras"].append({"cam_id": "aria02", "is_ego": True})
    row["frame_aligned_videos"]["aria02"] = {"rgb": {"relative_path": "frame_aligned_videos/aria02_214-1.mp4"}}
    clips, statistics = built(write_corpus(tmp_path, [row], two_annotators()), tmp_path / "out")
    assert clips[0].ego_video.endswith("aria01_214-1.mp4")
    assert len(clips[0].exo_videos) == 2
    assert statistics["dropped"]["video"] == {"second_ego_camera": 1}


def test_flags() -> None:
    values = (True, False, None, 0, 1, "0", "1", " True", "FALSE", "")
    assert [FLAGS[value] for value in values] == [True, False, None, False, True, False, True, True, False, None]
    with pytest.raises(ValueError, match="expected a flag"):
        FLAGS["maybe"]


def test_optional_filters_of_narrations(tmp_path: Path) -> None:
    rows = [
        described(1.0, "a", unsure="1"),
        described(2.0, "b", ego_visible=False),
        described(3.0, "c", subject=None, narration_subject="O"),
        described(None, "d"),
        described(4.0, "e", best_exo=None, unsure=None, ego_visible=None),
    ]
    annotations = {"uid-0": [annotation(0, rows), annotation(1, [described(5.0, "f")], rejected="1")]}
    root = write_corpus(tmp_path, [take(0)], annotations)
    default, statistics = built(root, tmp_path / "out")
    assert "".join(clip.text for clip in default) == "abce"
    assert statistics["dropped"]["narration"] == {"no_timestamp": 1}
    assert (default[3].best_exo, default[3].unsure, default[3].ego_visible) == ("", None, None)
    everything, _ = built(root, tmp_path / "out", drop=frozenset())
    assert "".join(clip.text for clip in everything) == "abcef"
    rules = frozenset({"rejected", "unsure", "not-ego-visible", "other-subject"})
    strict, statistics = built(root, tmp_path / "out", drop=rules)
    assert "".join(clip.text for clip in strict) == "e"
    assert statistics["dropped"]["narration"] == {
        "no_timestamp": 1,
        "not_ego_visible": 1,
        "other_subject": 1,
        "unsure": 1,
    }


def test_the_wearer_can_be_spelled_out(tmp_path: Path) -> None:
    annotations = {"uid-0": [annotation(0, [described(1.0, "C hands Cup C to X."), described(2.0)])]}
    clips, _ = built(write_corpus(tmp_path, [take(0)], annotations), tmp_path / "out", spell_out_wearer=True)
    assert clips[0].text == "Camera-wearer hands Cup Camera-wearer to X."


def test_policies_reach_the_table_and_are_counted(tmp_path: Path) -> None:
    annotations = {
        "uid-0": [annotation(0, [described(time, text) for time, text in zip((1, 5, 5, 5, 9), "abcde", strict=True)])],
        "uid-1": [annotation(0, [described(3.0), described(99.0)])],
        "uid-2": [annotation(0, [described(3.0)])],
    }
    root = write_corpus(tmp_path, [take(number) for number in range(3)], annotations)
    clips, statistics = built(root, tmp_path / "out", alpha=1.92)
    assert len(clips) == 7
    assert statistics["durations"]["zero_length"] == 1
    assert statistics["beta_s"]["undefined"] == 1
    assert statistics["dropped"]["narration"] == {"outside_the_video": 1}
    clips, statistics = built(root, tmp_path / "out", alpha=1.92, zero_length="drop", undefined_beta="drop")
    assert {clip.take_uid for clip in clips} == {"uid-0", "uid-1"}
    assert statistics["takes"] == 2
    assert statistics["dropped"]["narration"] == {"outside_the_video": 1, "undefined_beta": 1, "zero_length": 1}


def test_the_order_of_the_files_does_not_matter(tmp_path: Path) -> None:
    generator = random.Random(0)
    takes = [take(number) for number in range(5)]
    annotations = {
        f"uid-{number}": [
            annotation(one, [described(generator.randrange(12), f"C does {generator.random()}.") for _ in range(9)])
            for one in range(3)
        ]
        for number in range(5)
    }
    build(BuildOptions(write_corpus(tmp_path / "a", takes, annotations), tmp_path / "a", check_files=False))
    for of_take in annotations.values():
        for one in of_take:
            generator.shuffle(one["descriptions"])
        generator.shuffle(of_take)
    shuffled = dict(generator.sample(list(annotations.items()), 5))
    build(BuildOptions(write_corpus(tmp_path / "b", takes[::-1], shuffled), tmp_path / "b", check_files=False))
    first, second = (pyarrow.parquet.read_table(tmp_path / name / "clips.parquet") for name in "ab")
    assert first.equals(second)
    assert (tmp_path / "a/stats.json").read_text() == (tmp_path / "b/stats.json").read_text()


def test_missing_files_leave_out_the_view_or_the_take(tmp_path: Path) -> None:
    takes = [take(number) for number in range(3)]
    annotations = {row["take_uid"]: two_annotators()["uid-0"] for row in takes}
    root = write_corpus(tmp_path, takes, annotations)
    (tmp_path / "any.mp4").write_bytes(b"")
    paths = add_videos(root, takes, tmp_path / "any.mp4")
    for path in (paths[2], paths[3], paths[7], paths[8]):  # cam02 of take 0, ego of take 1, both exo of take 2
        path.unlink()
    clips, statistics = built(root, tmp_path / "out", check_files=True)
    assert {clip.take_uid for clip in clips} == {"uid-0"}
    assert [Path(path).stem for path in clips[0].exo_videos] == ["cam01"]
    assert statistics["dropped"]["take"] == {"all_exo_videos_unusable": 1, "ego_video_unusable": 1}


def test_statistics(tmp_path: Path) -> None:
    annotations = {
        "uid-0": [annotation(0, [described(4.0, "C puts the long wooden spoon down."), described(8.0, "C  ends.")])]
    }
    _, statistics = built(write_corpus(tmp_path, [take(0, duration_s=36.0)], annotations), tmp_path / "out", alpha=1.0)
    assert statistics["durations"]["mean_s"] == pytest.approx(4.0)
    assert statistics["durations"]["std_s"] == pytest.approx(0.0, abs=1e-6)
    assert statistics["durations"]["share_below_1s"] == 0.0
    assert sum(statistics["durations"]["histogram"]["counts"]) == 2
    assert (statistics["words"]["mean"], statistics["words"]["std"]) == (4.5, 2.5)
    assert statistics["longest_narration"]["text"] == "C puts the long wooden spoon down."
    assert statistics["ego_hours"] == pytest.approx(0.01)
    assert statistics["video_hours"] == pytest.approx(0.03)
    report = (tmp_path / "out/report.md").read_text(encoding="utf-8")
    assert "| clip duration, mean (s) | 0.68 | 4.00 | A.2, Fig. 7 |" in report
    assert {path.name for path in (tmp_path / "out/plots").iterdir()} == {
        f"{name}.png" for name in ("clip_durations", "narration_words", "institutions", "tasks", "scenarios")
    }


def test_every_output_tells_how_it_was_made(tmp_path: Path) -> None:
    built(write_corpus(tmp_path, [take(0)], two_annotators()), tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(OUTPUTS)
    made = json.loads((tmp_path / "out/provenance.json").read_text())
    assert made["config"]["group_by"] == "take"
    assert set(made["inputs"]) == {"takes.json", "splits.json", "atomic_descriptions_train.json"}


def test_validation_takes_on_the_command_line(tmp_path: Path, run_python: RunPython) -> None:
    root = write_corpus(
        tmp_path / "root", [take(0), take(1)], two_annotators(), {"uid-0": "val", "uid-1": "train"}, split="val"
    )
    command = ["-m", "data_builders.ego_exoclip", "--root", root, "--out", tmp_path / "out", "--no-files"]
    done = run_python(*command, "--split", "val", "--alpha", "1.92")
    assert done.returncode == 0, done.stderr
    assert "6 clips of 1 takes, 12 ego-exo pairs; α 1.920000 s" in done.stdout


def test_the_table_loads_with_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    clips, _ = built(write_corpus(tmp_path, [take(0)], two_annotators()), tmp_path / "out")
    for kind, name in (("parquet", "clips.parquet"), ("arrow", "clips.arrow")):
        files = str(tmp_path / "out" / name)
        loaded = datasets.load_dataset(kind, data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
        assert [row["clip_id"] for row in loaded] == [clip.clip_id for clip in clips]
        assert loaded[0]["exo_videos"] == clips[0].exo_videos


@pytest.mark.parametrize(
    ("group_by", "betas", "alpha"),
    [("take", [1.8, 9.953897], 5.876948), ("annotation", [2.666667, 9.0, 9.953897], 7.206854)],
)
def test_reference_rows(tmp_path: Path, group_by: str, betas: list[float], alpha: float) -> None:
    root = shared_path("data/synthetic")
    clips, statistics = built(root, tmp_path / "out", group_by=group_by)
    assert round(statistics["alpha_s"], 6) == alpha
    beta = statistics["beta_s"]
    assert [round(beta[name], 6) for name in ("min", "max")] == [betas[0], betas[-1]]
    assert beta["defined"] == len(betas)
    assert statistics["durations"]["zero_length"] == 1
    assert [clip.timestamp_s for clip in clips if clip.start_s == clip.end_s] == [0.03831]
    assert statistics["dropped"]["take"] == {"no_narrations": 1, "no_uid_mapping": 1, "val_split": 1}


def test_options_that_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--root", "a", "--out", "b", "--no-files", "--check-videos"])
    with pytest.raises(SystemExit):
        main(["--root", "a", "--out", "b", "--alpha", "0"])
    assert "expected auto or a number of seconds above 0" in capsys.readouterr().err
