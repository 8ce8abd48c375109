"""A few hand-written takes in the raw files of Ego-Exo4D, for the tests of the Ego-ExoClip builder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DOWNSCALED = "frame_aligned_videos/downscaled/448"


def take(
    number: int, *, duration_s: float = 20.0, exo: Sequence[str] = ("cam01", "cam02"), **changes: Any
) -> dict[str, Any]:
    """Returns a row of takes.json: one Aria, the given exo cameras, a phone, the two pseudo-cameras."""
    cameras = [{"cam_id": "aria01", "is_ego": True}, *({"cam_id": name, "is_ego": False} for name in (*exo, "mobile"))]
    streams = {name: {"0": {"relative_path": f"frame_aligned_videos/{name}.mp4"}} for name in exo}
    row = {
        "take_uid": f"uid-{number}",
        "take_name": f"cmu_bike{number:02d}_1",
        "root_dir": f"takes/cmu_bike{number:02d}_1",
        "duration_sec": duration_s,
        "task_id": 4001,
        "task_name": "Remove a Wheel",
        "parent_task_name": "Bike Repair",
        "university_name": "cmu",
        "capture": {"cameras": cameras},
        "frame_aligned_videos": {
            "aria01": {
                "rgb": {"relative_path": "frame_aligned_videos/aria01_214-1.mp4"},
                "slam-left": {"relative_path": "frame_aligned_videos/aria01_1201-1.mp4"},
            },
            **streams,
            "collage": {"0": {"relative_path": "ego_preview.mp4"}},
            "best_exo": {"0": {"relative_path": None}},
        },
    }
    return {**row, **changes}


def annotation(number: int, descriptions: Sequence[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """Returns one annotator's annotation of a take."""
    row = {"annotation_uid": f"annotation-{number}", "annotator_id": str(100 + number), "rejected": False}
    return {**row, "reject_reason": None, "descriptions": list(descriptions), **changes}


def described(timestamp_s: float | None, text: str = "C lifts the wheel.", **changes: Any) -> dict[str, Any]:
    """Returns one description."""
    best_exo = {"raw_cam_id": "1", "cam_id": "cam01"}
    row = {"text": text, "timestamp": timestamp_s, "subject": "C", "ego_visible": True, "best_exo": best_exo}
    return {**row, "unsure": False, **changes}


def write_corpus(
    root: Path,
    takes: Sequence[dict[str, Any]],
    annotations: Mapping[str, Sequence[dict[str, Any]]],
    splits: Mapping[str, str] | None = None,
    *,
    split: str = "train",
) -> Path:
    """Writes the three files the builder reads; without `splits` every take is of `split`. Returns `root`."""
    if splits is None:
        splits = dict.fromkeys([row["take_uid"] for row in takes], split)
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "takes.json").write_text(json.dumps(list(takes)), encoding="utf-8")
    (root / "annotations/splits.json").write_text(json.dumps({"take_uid_to_split": splits}), encoding="utf-8")
    descriptions = {"ds": "240327", "take_cam_id_map": {"uid-0": {"1": "cam01"}}, "annotations": annotations}
    path = root / f"annotations/atomic_descriptions_{split}.json"
    path.write_text(json.dumps(descriptions), encoding="utf-8")
    return root


def add_videos(root: Path, takes: Sequence[dict[str, Any]], video: Path) -> list[Path]:
    """Copies `video` to every place that a take's ego and exo cameras name; returns the paths."""
    paths = []
    for row in takes:
        exo = [name for name in row["frame_aligned_videos"] if name.startswith(("cam", "gp"))]
        for name in ("aria01_214-1", *exo):
            paths.append(root / "takes" / row["take_name"] / DOWNSCALED / f"{name}.mp4")
            paths[-1].parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(video, paths[-1])
    return paths


def write_video(path: Path, *, num_frames: int = 60) -> Path:
    """Writes a 32x32 H.264 file at 30 fps whose frames brighten over time."""
    import av
    import numpy

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast", "g": "10"})
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for number in range(num_frames):
            frame = numpy.full((32, 32, 3), 4 * (number % 60), dtype=numpy.uint8)
            frame[:, number % 32] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode(None))
    return path
