"""Typed reading of Ego-Exo4D v2 metadata: where the files lie, takes with their cameras, splits."""

from __future__ import annotations

import math
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from exo2ego.errors import DataError
from exo2ego.raw.json_stream import stream_list, stream_object

Split = Literal["train", "val"]
Resolution = Literal["448", "full"]

SCENARIOS = {
    1: "Cooking",
    2: "Health",
    4: "Bike Repair",
    5: "Music",
    6: "Basketball",
    7: "Rock Climbing",
    8: "Soccer",
    9: "Dance",
}
"""Scenario by task_id // 1000, for takes without `parent_task_name`."""


class _Flags(dict[object, "bool | None"]):
    """Flags as the files hold them to bool or None; raises `ValueError` for anything else."""

    def __missing__(self, value: object) -> bool | None:
        text = str(value).strip().lower()
        if not isinstance(value, str) or text not in self:
            raise ValueError(f"expected a flag such as true, false, 0, 1 or null, got {value!r}")
        return self[text]


FLAGS = _Flags({None: None, False: False, True: True, "0": False, "1": True, "false": False, "true": True, "": None})
"""`FLAGS[value]` reads a flag: booleans, 0/1 (equal to booleans), and the strings of annotation release v1."""


@dataclass(frozen=True)
class AnnotationFiles:
    """The three files that the builder reads."""

    takes: Path
    splits: Path
    descriptions: Path


@dataclass(frozen=True)
class Take:
    """One recording with its usable cameras; paths are relative to the dataset root."""

    uid: str
    name: str
    duration_s: float
    university: str
    scenario: str
    task: str
    ego_video: str | None
    exo_videos: tuple[str, ...]
    unused_ego_videos: tuple[str, ...] = ()
    """Further head-mounted Aria cameras of the same take."""


def find_annotation_files(root: Path, split: Split) -> AnnotationFiles:
    """Finds the files below an Ego-Exo4D folder; raises one `DataError` that names everything missing."""
    descriptions = f"atomic_descriptions_{split}.json"
    found = {name: _find(root, name) for name in ("takes.json", "splits.json", descriptions)}
    paths = {name: path for name, path in found.items() if path is not None}
    missing = [name for name in found if name not in paths]
    if missing:
        places = {"takes.json": "takes.json (--parts metadata)"}
        names = ", ".join(places.get(name, f"annotations/{name} (--parts annotations)") for name in missing)
        raise DataError(f"{root}: no {names}; {_nearby(root)}")
    return AnnotationFiles(paths["takes.json"], paths["splits.json"], paths[descriptions])


def _find(root: Path, name: str) -> Path | None:
    candidates = (root / "annotations" / name, root / name)
    return next((path for path in candidates if path.is_file()), None)


def _nearby(root: Path) -> str:
    if not root.is_dir():
        return "this folder does not exist; give --root the folder that `egoexo -o` wrote"
    candidates = [root.parent, *sorted(path for path in root.iterdir() if path.is_dir())]
    better = next((folder for folder in candidates if (folder / "takes.json").is_file()), None)
    if better is not None and not (root / "takes.json").is_file():
        return f"did you mean --root {better}?"
    return "expected an Ego-Exo4D v2 folder as `egoexo -o` writes it"


def read_splits(path: Path) -> dict[str, str]:
    """Returns the split of every take uid."""
    return {uid: str(split) for uid, split in stream_object(path, "take_uid_to_split", "splits file")}


def read_takes(path: Path, resolution: Resolution) -> dict[str, Take]:
    """Returns all takes by uid; raises `DataError` for a malformed or repeated take."""
    takes: dict[str, Take] = {}
    for number, row in enumerate(stream_list(path, "list of takes")):
        try:
            take = take_from_row(row, resolution)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            name = row.get("take_name") if isinstance(row, dict) else None
            raise DataError(
                f"{path}: take number {number} ({name}) is not an Ego-Exo4D v2 take: {_reason(error)}"
            ) from error
        if take.uid in takes:
            raise DataError(f"{path}: take_uid {take.uid} is given twice ({takes[take.uid].name}, {take.name})")
        takes[take.uid] = take
    return takes


def _reason(error: Exception) -> str:
    return f"no key {error}" if isinstance(error, KeyError) else str(error)


def take_from_row(row: Mapping[str, Any], resolution: Resolution) -> Take:
    """Builds a take from its row of takes.json; raises KeyError, TypeError or ValueError where it is malformed."""
    cameras = {str(camera["cam_id"]): FLAGS[camera.get("is_ego")] is True for camera in row["capture"]["cameras"]}
    streams = row["frame_aligned_videos"]
    folder = str(row.get("root_dir") or row["take_name"]).strip("/")
    if not folder.startswith("takes/"):  # the early development release left it out
        folder = f"takes/{folder}"

    def videos(stream: str, cameras: list[str]) -> list[str]:
        files = [(streams.get(camera) or {}).get(stream) or {} for camera in cameras]
        return [_video_path(folder, file["relative_path"], resolution) for file in files if file.get("relative_path")]

    ego = videos("rgb", sorted(camera for camera, is_ego in cameras.items() if is_ego and "aria" in camera.lower()))
    exo = videos("0", sorted(camera for camera, is_ego in cameras.items() if not is_ego))
    return Take(
        uid=str(row["take_uid"]),
        name=str(row["take_name"]),
        duration_s=_duration_s(row.get("duration_sec")),
        university=str(row.get("university_name") or ""),
        scenario=str(row.get("parent_task_name") or SCENARIOS.get(int(row.get("task_id") or 0) // 1000, "")),
        task=str(row.get("task_name") or ""),
        ego_video=ego[0] if ego else None,
        exo_videos=tuple(exo),
        unused_ego_videos=tuple(ego[1:]),
    )


def _video_path(folder: str, relative_path: str, resolution: Resolution) -> str:
    if relative_path.startswith("/") or ".." in relative_path.split("/"):
        raise ValueError(f"relative_path {relative_path!r} leaves the folder of the take")
    head, name = posixpath.split(f"{folder}/{relative_path}")
    return f"{head}/{name}" if resolution == "full" else f"{head}/downscaled/{resolution}/{name}"


def _duration_s(value: object) -> float:
    duration = float(value) if isinstance(value, (int, float)) else 0.0
    return duration if math.isfinite(duration) else 0.0
