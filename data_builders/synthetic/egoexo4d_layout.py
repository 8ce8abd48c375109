"""The JSON files of Ego-Exo4D v2 as downloaded: takes, captures, splits, and atomic descriptions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_builders.synthetic.config import FRAMES_PER_SECOND, SyntheticConfig
from data_builders.synthetic.narration import Narration, sentence
from data_builders.synthetic.takes import TakeSpec, make_uid
from data_builders.synthetic.world import Event
from exo2ego.storage import write_json

EXPORT_STAMP = "240327"
RECORDED_UNIX_S = 1689793200
ARIA_STREAMS = {"slam-left": "1201-1", "slam-right": "1201-2", "et": "211-1", "rgb": "214-1"}
VIDEO_FOLDER = "frame_aligned_videos/downscaled/448"
"""Videos lie here whatever their size, as the `downscaled_takes/448` download puts them."""


def video_dir(root: Path, spec: TakeSpec) -> Path:
    """Returns the folder of a take's videos."""
    return root / "takes" / spec.name / VIDEO_FOLDER


def take_record(
    config: SyntheticConfig, spec: TakeSpec, events: Sequence[Event], rng: np.random.Generator
) -> dict[str, Any]:
    """Returns the entry of takes.json; its `capture` is the entry of captures.json."""
    best = [event.best_exo for event in events if event.best_exo]
    first_row = int(rng.integers(1000, 9000))
    capture = _capture(spec, rng)
    return {
        "root_dir": f"takes/{spec.name}",
        "take_name": spec.name,
        "participant_uid": int(rng.integers(1, 840)),
        "is_dropped": False,
        "objects": [],
        "best_exo": max(sorted(set(best)), key=best.count) if best and spec.num_annotators else None,
        "task_start_sec": None,
        "task_end_sec": None,
        "task_id": spec.task.task_id,
        "task_name": spec.task.name,
        "parent_task_id": spec.task.parent_id,
        "parent_task_name": spec.task.parent_name,
        "take_idx": 1,
        "duration_sec": config.num_frames / FRAMES_PER_SECOND,
        "is_narrated": False,
        "physical_setting_uid": capture["physical_setting_uid"],
        "timesync_start_idx": first_row,
        "timesync_end_idx": first_row + config.num_frames,
        "capture": capture,
        "validated": True,
        "frame_aligned_videos": _frame_aligned_videos(spec, rng),
        "university_name": spec.university,
        "capture_uid": capture["capture_uid"],
        "take_uid": spec.uid,
        "take_timing_uid": make_uid(rng),
        "timesync_uid": capture["timesync_uid"],
        "has_trimmed_vrs": True,
    }


def _capture(spec: TakeSpec, rng: np.random.Generator) -> dict[str, Any]:
    name = spec.name.rpartition("_")[0]
    egos = [name for name in (spec.aria, spec.head_gopro) if name]
    true: bool | str = "True" if "text_flags" in spec.traps else True
    # Phones are listed as cameras, but have no frame-aligned video.
    cameras = [(name, true, "videos") for name in egos] + [
        (name, False, "videos") for name in (*spec.exo_cameras, "mobile")
    ]
    return {
        "root_dir": f"captures/{name}",
        "capture_uid": make_uid(rng),
        "capture_name": name,
        "university_name": spec.university,
        "physical_setting_uid": int(rng.integers(1, 130)),
        "ds_recorded": RECORDED_UNIX_S,
        "has_trajectory": True,
        "has_gaze": True,
        "has_postsurvey": True,
        "cameras": [
            {
                "cam_id": name,
                "is_ego": is_ego,
                "has_walkaround": name in (spec.aria, "mobile"),
                "includes_audio": True,
                "device_type": "aria" if name == spec.aria else "hero10",
                "relative_path": f"{folder}/{name}.{'vrs' if name == spec.aria else 'mp4'}",
                "video_artifact_uid": make_uid(rng),
            }
            for name, is_ego, folder in cameras
        ],
        "timesync_validated": True,
        "validated": True,
        "timesync_uid": make_uid(rng),
    }


def _frame_aligned_videos(spec: TakeSpec, rng: np.random.Generator) -> dict[str, Any]:
    def stream(camera: str, stream_id: str, readable: str, path: str) -> dict[str, Any]:
        return {
            "cam_id": camera,
            "stream_id": stream_id,
            "readable_stream_id": readable,
            "clip_uid": make_uid(rng),
            "relative_path": f"frame_aligned_videos/{path}.mp4",
        }

    gopros = [*spec.exo_cameras, *([spec.head_gopro] if spec.head_gopro else [])]
    pseudo = {"stream_id": "0", "readable_stream_id": "0", "is_collage": True}
    return {
        spec.aria: {
            readable: stream(spec.aria, number, readable, f"{spec.aria}_{number}")
            for readable, number in ARIA_STREAMS.items()
        },
        **{name: {"0": stream(name, "0", "0", name)} for name in gopros},
        "collage": {"0": {"clip_uid": make_uid(rng), **pseudo, "relative_path": "ego_preview.mp4"}},
        "best_exo": {"0": {"clip_uid": None, **pseudo, "relative_path": None}},
    }


def annotation_records(
    spec: TakeSpec, narrations: Sequence[Sequence[Narration]], rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Returns a take's entry of the atomic descriptions: one record per annotator, traps included."""
    records = []
    for annotator, own in enumerate(narrations):
        own = own[len(own) // 2 :][:1] if "single_narration" in spec.traps else own
        descriptions = [_description(spec, narration) for narration in own]
        if annotator == 0 and "equal_timestamps" in spec.traps:
            middle = len(own) // 2
            descriptions[middle + 1 : middle + 1] = _again(spec, own[middle])
        if annotator == 1 and "text_flags" in spec.traps:
            descriptions = [_with_text_flags(description) for description in descriptions]
            descriptions[0]["unsure"] = None
        if annotator == 1 and "unsorted_timestamps" in spec.traps:
            descriptions = [descriptions[index] for index in rng.permutation(len(descriptions))]
        records.append(_annotation(rng, descriptions))
    if "rejected_annotation" in spec.traps:
        untrue = {**_description(spec, narrations[0][0]), "text": "bad job"}
        records.append({**_annotation(rng, [untrue]), "rejected": True, "reject_reason": "low quality"})
    return records


def _annotation(rng: np.random.Generator, descriptions: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "annotation_uid": make_uid(rng),
        "annotator_id": str(100000000000000 + int(rng.integers(1000))),
        "rejected": False,
        "reject_reason": None,
        "descriptions": descriptions,
    }


def _description(spec: TakeSpec, narration: Narration) -> dict[str, Any]:
    best = narration.event.best_exo
    return {
        "text": narration.text,
        "timestamp": narration.timestamp_s,
        "subject": "C",
        "ego_visible": narration.event.ego_visible,
        "best_exo": {"raw_cam_id": str(spec.exo_cameras.index(best) + 1), "cam_id": best} if best else None,
        "unsure": False,
    }


def _again(spec: TakeSpec, narration: Narration) -> list[dict[str, Any]]:
    """Says the same twice more, in other words, at the same instant."""
    texts = [sentence(narration.event, style, spec.pronoun, with_place=False) for style in (0, 1)]
    return [{**_description(spec, narration), "text": text} for text in texts]


def _with_text_flags(description: dict[str, Any]) -> dict[str, Any]:
    changed = {key: value for key, value in description.items() if key != "subject"}
    changed["narration_subject"] = description["subject"]
    changed |= {key: "1" if description[key] else "0" for key in ("ego_visible", "unsure")}
    return changed


def write_annotations(root: Path, specs: Sequence[TakeSpec], annotations: dict[str, list[dict[str, Any]]]) -> None:
    """Writes annotations/splits.json and the atomic descriptions of train and val; those of test are withheld."""
    by_split = {split: [spec.uid for spec in specs if spec.split == split] for split in ("train", "val", "test")}
    splits = {
        "split_to_take_uids": by_split,
        "take_uid_to_split": {uid: split for split, uids in by_split.items() for uid in uids},
        "take_uid_to_benchmark": {spec.uid: ["atomic_action_descriptions"] for spec in specs},
    }
    write_json(root / "annotations" / "splits.json", splits)
    for split in ("train", "val"):
        own = [spec for spec in specs if spec.split == split and annotations.get(spec.uid)]
        content = {
            "ds": EXPORT_STAMP,
            "take_cam_id_map": {
                spec.uid: {str(number): name for number, name in enumerate(spec.exo_cameras, 1)} for spec in own
            },
            "annotations": {spec.uid: annotations[spec.uid] for spec in own},
        }
        write_json(root / "annotations" / f"atomic_descriptions_{split}.json", content)


def write_takes(root: Path, records: Sequence[dict[str, Any]]) -> None:
    """Writes captures.json, then takes.json, whose presence makes the folder a dataset."""
    write_json(root / "captures.json", [record["capture"] for record in records])
    write_json(root / "takes.json", list(records))
