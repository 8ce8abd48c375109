"""Building a corpus: takes are rendered in parallel, each complete or absent, then the JSON files follow."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_builders.synthetic.cameras import Camera, ego_camera, exo_cameras
from data_builders.synthetic.config import FRAMES_PER_SECOND, SyntheticConfig
from data_builders.synthetic.egoexo4d_layout import (
    annotation_records,
    take_record,
    video_dir,
    write_annotations,
    write_takes,
)
from data_builders.synthetic.ground_truth import SIDECAR, read_settings
from data_builders.synthetic.motion import HEIGHT_M, UP, Array, Key, Motion, animate, interpolate
from data_builders.synthetic.narration import narrate
from data_builders.synthetic.palette import make_palette
from data_builders.synthetic.processes import map_in_processes
from data_builders.synthetic.rendering import Renderer
from data_builders.synthetic.takes import TRAPS, TakeSpec, plan_takes
from data_builders.synthetic.video import write_video
from data_builders.synthetic.vocabulary import Combination, combinations
from data_builders.synthetic.world import Event, Plan, make_plan
from exo2ego.console import track
from exo2ego.errors import DataError
from exo2ego.provenance import provenance
from exo2ego.storage import TEMPORARY_MARK, atomic_path, remove_leftovers, require_free_space, write_json

# Independent random streams, so that skipping one (a take that is already rendered) changes no other.
HELD_OUT, WORLD, TEXT, COLOUR = 1, 2, 3, 4
BYTES_PER_PIXEL = 0.13
"""Encoded size at the smallest frame size, for the check of free space; larger frames take less (0.04 at 128)."""


@dataclass(frozen=True)
class SimulatedTake:
    """A take before it is rendered."""

    spec: TakeSpec
    plan: Plan
    motion: Motion
    cameras: list[Camera]
    events: list[Event]


@dataclass(frozen=True)
class FinishedTake:
    """What the JSON files say about a take."""

    spec: TakeSpec
    record: dict[str, Any]
    annotations: list[dict[str, Any]]
    events: list[Event]


def held_out_combinations(config: SyntheticConfig) -> frozenset[Combination]:
    """Returns the (verb, colour, shape) that no training take contains."""
    every = combinations()
    chosen = np.random.default_rng([config.seed, HELD_OUT]).permutation(len(every))
    return frozenset(every[index] for index in chosen[: round(config.held_out_combinations * len(every))])


def simulate(config: SyntheticConfig, spec: TakeSpec) -> SimulatedTake:
    """Lets a take happen, without pictures."""
    rng = np.random.default_rng([config.seed, WORLD, spec.index])
    forbidden: AbstractSet[Combination] = held_out_combinations(config) if spec.split == "train" else frozenset()
    plan = make_plan(rng, config.num_frames / FRAMES_PER_SECOND, forbidden)
    motion = animate(plan, config.num_frames, rng)
    wide, square = (config.exo_width, config.frame_size), (config.frame_size, config.frame_size)
    glances = _glances(plan, config, rng)
    ego = ego_camera(rng, spec.aria, square, config.ego_difficulty, motion.attention, glances)
    exo = exo_cameras(rng, list(spec.exo_cameras), wide, config.exo_difficulty)
    cameras = [ego, *exo]
    if spec.head_gopro:
        cameras.append(ego_camera(rng, spec.head_gopro, wide, config.ego_difficulty, motion.attention, glances))
    events = [_seen(plan.event(step), step.action.item, motion, ego, exo) for step in plan.steps]
    return SimulatedTake(spec, plan, motion, cameras, events)


def _glances(plan: Plan, config: SyntheticConfig, rng: np.random.Generator) -> Array:
    """Offsets [T, 3] of the wearer's gaze: during some events (0.6 x difficulty of them) it leaves the action."""
    keys: list[Key] = [(0.0, np.zeros(3))]
    for step in plan.steps:
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.5)
        glances = rng.random() < 0.6 * config.ego_difficulty
        offset = distance * np.array([np.cos(angle), np.sin(angle), 0.0]) if glances else np.zeros(3)
        length = step.end_s - step.start_s
        keys += [(step.start_s + 0.2 * length, offset), (step.start_s + 0.8 * length, offset)]
    return interpolate(np.arange(config.num_frames) / FRAMES_PER_SECOND, [*keys, (keys[-1][0] + 1.0, np.zeros(3))])


def _seen(event: Event, item: int, motion: Motion, ego: Camera, exo: Sequence[Camera]) -> Event:
    """Adds what the cameras know: whether the wearer sees the object, and which exocentric camera sees it best."""
    frame = round(event.timestamp_s * FRAMES_PER_SECOND)
    centre = motion.positions[item, frame] + 0.5 * HEIGHT_M[event.shape] * UP
    seeing = [camera for camera in exo if camera.sees(centre, 0)]
    nearest = min(seeing, key=lambda camera: float(((camera.position[:, 0] - centre) ** 2).sum()), default=None)
    update = {"ego_visible": ego.sees(centre, frame), "best_exo": nearest.name if nearest else ""}
    return event.model_copy(update=update)


def make_take(config: SyntheticConfig, spec: TakeSpec, root: Path) -> FinishedTake:
    """Simulates a take, renders its videos unless they are there, and returns its entries of the JSON files."""
    take = simulate(config, spec)
    mapped = "unmapped_uid" not in spec.traps
    if mapped and not all((video_dir(root, spec) / name).is_file() for name in spec.video_names):
        with atomic_path(root / "takes" / spec.name) as temporary:
            folder = temporary / video_dir(root, spec).relative_to(root / "takes" / spec.name)
            folder.mkdir(parents=True)
            render_take(config, take, folder)
    rng = np.random.default_rng([config.seed, TEXT, spec.index])
    narrations = narrate(take.events, spec.num_annotators, spec.pronoun, rng)
    record = take_record(config, spec, take.events, rng)
    return FinishedTake(spec, record, annotation_records(spec, narrations, rng), take.events)


def render_take(config: SyntheticConfig, take: SimulatedTake, folder: Path) -> None:
    """Writes the videos of all cameras of a take into `folder`."""
    renderer = Renderer(take.plan, take.motion, supersampling=config.supersampling)
    rng = np.random.default_rng([config.seed, COLOUR, take.spec.index])
    for camera, name in zip(take.cameras, take.spec.video_names, strict=True):
        palette = make_palette(rng.uniform(0.93, 1.0, 3))
        write_video(folder / name, renderer.frames(camera, palette), (camera.width, camera.height))
    if "unreadable_video" in take.spec.traps:
        victim = folder / take.spec.video_names[1]
        victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])


def build_corpus(config: SyntheticConfig, root: Path, workers: int) -> None:
    """Builds a corpus in `root`, or finishes one that was interrupted.

    Raises `DataError` when `root` holds something else, or the disk is full.
    """
    _claim(root, config)
    for folder in (root, root / "takes", root / "annotations"):
        remove_leftovers(folder)
    specs = plan_takes(config)
    width_of_all_views = config.frame_size + config.exo_cameras * config.exo_width
    pixels = config.takes * config.num_frames * config.frame_size * width_of_all_views
    require_free_space(root, int(pixels * BYTES_PER_PIXEL), "the corpus")
    making = map_in_processes(partial(make_take, config, root=root), specs, workers, root)
    finished = list(track(making, "takes", total=len(specs)))
    write_annotations(root, specs, {take.spec.uid: take.annotations for take in finished})
    write_takes(root, [take.record for take in finished if "unmapped_uid" not in take.spec.traps])
    write_json(root / SIDECAR, _sidecar(config, finished))


def _claim(root: Path, config: SyntheticConfig) -> None:
    """Marks the folder as ours before anything else is written; refuses other people's folders and other settings."""
    there = read_settings(root)
    if there:
        differences = [
            f"{key} is {there.get(key)!r} there, {value!r} here"
            for key, value in config.model_dump(mode="json").items()
            if there.get(key) != value
        ]
        if differences:
            raise DataError(
                f"{root}: holds a corpus with other settings ({'; '.join(differences)}); choose another folder"
            )
        return
    if root.is_dir() and any(TEMPORARY_MARK not in path.name for path in root.iterdir()):
        raise DataError(f"{root}: is not empty and has no {SIDECAR}; choose an empty or a new folder")
    write_json(root / SIDECAR, {"config": config.model_dump(mode="json")})


def _sidecar(config: SyntheticConfig, finished: Sequence[FinishedTake]) -> dict[str, Any]:
    return {
        "provenance": provenance(config.model_dump(mode="json"), seed=config.seed),
        "config": config.model_dump(mode="json"),
        "held_out_combinations": sorted(held_out_combinations(config)),
        "traps": {
            trap: {"what": what, "take_uids": [take.spec.uid for take in finished if trap in take.spec.traps]}
            for trap, what in TRAPS.items()
        },
        "takes": {
            take.spec.uid: {
                "take_name": take.spec.name,
                "split": take.spec.split,
                "events": [event.to_row() for event in take.events],
            }
            for take in finished
        },
    }
