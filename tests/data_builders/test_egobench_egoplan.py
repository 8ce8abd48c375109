"""EgoPlan: which instants a frame number means, what a question shows, and that its answer is the golden choice."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from data_builders.egobench.egoplan import SOURCE, EgoPlanOptions, main
from data_builders.source import build_source
from eval.questions import read_questions
from exo2ego.data.video import read_frames
from exo2ego.errors import ConfigError, DataError
from exo2ego.raw import epic_kitchens
from exo2ego.storage import read_jsonl
from tests.data_builders.raw_egoplan import EGO4D, row, write_egoplan
from tests.shared_data import shared_path

FILE = "EgoPlan_validation.json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_egoplan(tmp_path / "raw")
    return tmp_path / "raw"


def built(root: Path, **options: Any) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    out = root.parent / "out"
    summary = build_source(SOURCE, EgoPlanOptions(root=root, out=out, **options))
    rows = read_jsonl(out / "egoplan.jsonl")
    return summary, {one["id"].removeprefix("egoplan/"): one for one in rows}


def rewrite(root: Path, rows: Any) -> None:
    (root / FILE).write_text(json.dumps(rows))


def test_a_question_as_it_is_written(root: Path) -> None:
    _, rows = built(root)
    assert rows["115"] == {
        "id": "egoplan/115",
        "task": "egoplan",
        "source": "egoplan",
        "split": "validation",
        "video": "P01/videos/P01_13.MP4",
        "start": 1.0,
        "end": 10.0,
        "frames": None,
        "question": "What action should I take next in order to store flour?",
        "options": ["take bag.", "open cupboard.", "put bag into cupboard.", "close cupboard."],
        "answer_index": 1,
        "answer_text": "open cupboard",
        "observation": 10.0,
        "frame_rate": None,
        "meta": {
            "video_uid": "P01_13",
            "video_source": "EpicKitchens",
            "task_goal": "store flour",
            "progress": ["fold bag", "take bag"],
        },
        "version": 1,
    }


def test_the_instants_of_every_kind_of_video(root: Path) -> None:
    _, rows = built(root)
    shown = {name: (one["video"], one["start"], one["end"], one["frame_rate"]) for name, one in rows.items()}
    assert shown == {
        "115": ("P01/videos/P01_13.MP4", 1.0, 10.0, None),
        "7": (f"v1_288p/{EGO4D}.mp4", 2.0, 20.0, None),
        "8": ("P01/videos/P01_13.MP4", 10.0, 10.0, None),
        "9": ("P01/videos/P01_13.MP4", 1.0, 10.0, None),
        "11": ("P01/rgb_frames/P01_101", 1.18, 11.98, 50.0),  # pictures 60 and 600, counted from 1
    }
    assert all(one["observation"] == one["end"] for one in rows.values())


@pytest.mark.parametrize(("video", "frame_rate"), [("P02_01", 60.0), ("P02_101", 50.0)])
@pytest.mark.parametrize(("start", "observation"), [(1, 7), (0, 0), (1, 1), (2, 3)])
def test_the_pictures_of_a_folder_are_those_of_the_authors(
    root: Path, video: str, frame_rate: float, start: int, observation: int
) -> None:
    folder = root / "P02" / "rgb_frames" / video
    folder.mkdir(parents=True)
    for number in range(1, 9):
        Image.new("L", (8, 8), 20 * number).save(folder / f"frame_{number:010d}.png")
    progress = [{"narration_text": "x", "start_frame": start, "stop_frame": start}]
    rewrite(root, [row(1, video_id=video, current_observation_frame=observation, task_progress_metadata=progress)])
    _, rows = built(root)
    one = rows["1"]
    assert one["frame_rate"] == frame_rate
    span = (one["start"], one["end"], 32)
    frames = read_frames(folder, *span, frame_rate=frame_rate, observation_s=one["observation"])
    assert [int(frames[place].max()) // 20 for place in (0, -1)] == [max(start, 1), max(observation, 1)]


def test_odd_rows_are_counted(root: Path) -> None:
    rows = json.loads((root / FILE).read_text())
    rewrite(root, [*rows, row(12, current_observation_frame=30)])
    summary, made = built(root)
    assert summary["dropped"] == {"the golden choice is not the answer": 1}
    assert summary["noted"] == {
        "no action was done yet: shows the observation alone": 1,
        "the first action starts after the observation: shows the observation alone": 1,
        "two options are the same text": 1,
    }
    assert made["9"]["meta"]["same_as_truth"] == [2]
    assert (made["12"]["start"], made["12"]["end"]) == (0.5, 0.5)
    assert summary["facts"]["egoplan_videos"] == 3
    assert summary["facts"]["egoplan_mean_clip_seconds"] == pytest.approx((9 + 18 + 0 + 9 + 10.8 + 0) / 6, abs=1e-3)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    frames=st.lists(
        st.tuples(st.integers(0, 10**6), st.lists(st.integers(0, 10**6), max_size=3), st.booleans()), min_size=1
    )
)
def test_the_last_instant_is_always_the_observation(root: Path, frames: list[tuple[int, list[int], bool]]) -> None:
    rows = []
    for number, (observation, starts, is_epic) in enumerate(frames):
        progress = [{"narration_text": "x", "start_frame": start, "stop_frame": start} for start in starts]
        video = {} if is_epic else {"video_source": "Ego4D", "video_id": EGO4D}
        rows.append(row(number, current_observation_frame=observation, task_progress_metadata=progress, **video))
    rewrite(root, rows)
    summary, made = built(root)
    assert len(made) == len(rows)
    for number, (observation, starts, is_epic) in enumerate(frames):
        one, rate = made[str(number)], 60 if is_epic else 30
        assert one["end"] == one["observation"] == pytest.approx(observation / rate, abs=1e-6)
        assert one["start"] == pytest.approx(min([*starts[:1], observation]) / rate, abs=1e-6)
    alone = sum(not starts or starts[0] > observation for observation, starts, _ in frames)
    assert alone == sum(count for reason, count in summary["noted"].items() if "the observation alone" in reason)


def test_both_video_folders_below_one_media_root(root: Path) -> None:
    media = root.parent / "media"
    (media / "epic" / "P01").mkdir(parents=True)
    (media / "ego4d" / "v1" / "full_scale").mkdir(parents=True)
    (media / "epic" / "P01" / "P01_13.MP4").touch()
    (media / "ego4d" / "v1" / "full_scale" / f"{EGO4D}.mp4").touch()
    folders = {"epic_videos": media / "epic", "ego4d_videos": media / "ego4d"}
    _, rows = built(root, media_root=media, **folders)
    assert rows["115"]["video"] == "epic/P01/P01_13.MP4"
    assert rows["7"]["video"] == f"ego4d/v1/full_scale/{EGO4D}.mp4"
    with pytest.raises(ConfigError, match="the videos lie in two folders; give a folder above both"):
        built(root, **folders)


def test_clips_that_others_cut_are_whole_files(root: Path) -> None:
    (root / "115.mp4").touch()
    _, rows = built(root, cut_clips=True)
    assert {rows["115"][key] for key in ("start", "end", "observation", "frame_rate")} == {None}
    assert (rows["115"]["video"], rows["7"]["video"]) == ("115.mp4", "7.mp4")
    for name in ("epic_videos", "ego4d_videos"):
        with pytest.raises(ConfigError, match="not read with cut_clips"):
            built(root, cut_clips=True, **{name: root})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([row(1, video_id="P1_1")], "row 1: video_id: 'P1_1' is no EPIC-KITCHENS-100 video"),
        ([row(1, video_id="../x", video_source="Ego4D")], "row 1: video_id: .*cannot name a file"),
        ([row(1, video_source="Charades")], "row 1: video_source: .*'EpicKitchens' or 'Ego4D'"),
        ([row(1), row(1)], "id 'egoplan/1' would be given to two records"),
        ([row(1, golden_choice_idx="E")], "row 1: golden_choice_idx: "),
        ([row(1, current_observation_frame=-1)], "row 1: current_observation_frame: "),
        ([row(1, current_observation_frame=10**40)], "row 1: current_observation_frame: "),
        ([row(1, current_observation_frame=1.5)], "row 1: current_observation_frame: "),
        ([row(1, task_progress_metadata=[{"stop_frame": 1}])], "row 1: task_progress_metadata.0.start_frame: "),
        ([{"sample_id": 1, "label": "N/A"}], "row 1: video_source: Field required"),
    ],
)
def test_faults_name_file_and_row(root: Path, value: Any, message: str) -> None:
    rewrite(root, value)
    with pytest.raises(DataError, match=message):
        built(root)
    assert not list((root.parent / "out").glob("*.json*"))


def test_the_command_and_the_evaluator(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = root.parent / "out"
    (root / "data").mkdir()
    (root / FILE).rename(root / "data" / FILE)
    assert main(["--root", str(root), "--out", str(out)]) == 0
    assert "egoplan: 5 rows, the paper has 3,339 (Table 2): -3,334; " in capsys.readouterr().out
    assert [one.observation_s for one in read_questions([out / "egoplan.jsonl"])] == [10.0, 20.0, 10.0, 10.0, 11.98]


def test_the_real_record(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    real = json.loads(shared_path("data/real/egoplan/example_from_readme.json").read_text())
    rewrite(tmp_path / "raw", [real])
    _, rows = built(tmp_path / "raw", option_style="raw")
    one = rows["115"]
    assert one["options"] == [real[f"choice_{letter}"] for letter in "abcd"]
    assert one["options"][one["answer_index"]] == one["answer_text"] == "put cereal box into cupboard"
    assert one["meta"]["progress"] == [action["narration_text"] for action in real["task_progress_metadata"]]
    # The first action of the record, as EPIC-KITCHENS-100 itself times it: P01_13_0 starts at 00:00:00.61.
    assert one["start"] == pytest.approx(0.61, abs=1 / 60)
    assert one["observation"] == one["end"] == pytest.approx(760 / 60, abs=1e-6)


def test_frame_numbers_of_epic_kitchens_count_sixty_per_second() -> None:
    """Whatever the video's own rate: by that one an instant would be wrong by minutes."""
    folder = shared_path("data/real/ek100")
    with (folder / "EPIC_100_retrieval_test.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    with (folder / "EPIC_100_video_info.csv").open(encoding="utf-8", newline="") as stream:
        own_rate = {one["video_id"]: float(one["fps"]) for one in csv.DictReader(stream)}
    worst_s, worst_by_own_rate_s = 0.0, 0.0
    for one in rows:
        for end in ("start", "stop"):
            hours, minutes, seconds = one[f"{end}_timestamp"].split(":")
            time_s = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
            frame = int(one[f"{end}_frame"])
            worst_s = max(worst_s, abs(frame / epic_kitchens.frame_rate_of(one["video_id"]) - time_s))
            worst_by_own_rate_s = max(worst_by_own_rate_s, abs(frame / own_rate[one["video_id"]] - time_s))
    assert worst_s <= 1 / 60 + 1e-9
    assert worst_by_own_rate_s > 100
    assert {round(own_rate[one["video_id"]], 2) for one in rows} == {29.97, 47.95, 59.94, 90.0}


@pytest.mark.parametrize(
    ("video", "participant", "frame_rate"), [("P01_13", "P01", 60.0), ("P37_103", "P37", 50.0), ("P18_09", "P18", 60.0)]
)
def test_ids_of_epic_kitchens(video: str, participant: str, frame_rate: float) -> None:
    assert epic_kitchens.participant_of(video) == participant
    assert epic_kitchens.frame_rate_of(video) == frame_rate
