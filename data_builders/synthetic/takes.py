"""Which takes a corpus has: names, splits, cameras, annotators, and the traps of the real dataset."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import count, islice
from typing import Literal

import numpy as np

from data_builders.synthetic.config import SyntheticConfig

Split = Literal["train", "val", "test"]

TRAPS = {
    "head_camera": "a UPenn take: gp* cameras, aria02 instead of aria01, and gp05 is worn on the head (is_ego true)",
    "missing_camera_number": "there is no cam03",
    "unreadable_video": "one exocentric mp4 is cut off in the middle",
    "text_flags": "flags as texts ('0', '1', 'True'), a null flag, narration_subject instead of subject",
    "equal_timestamps": "three narrations of one annotator have the same timestamp",
    "rejected_annotation": "one more annotation, rejected, with an untrue text",
    "unsorted_timestamps": "the second annotator's descriptions are out of order",
    "without_narrations": "the take is absent from the annotation files",
    "single_narration": "only one event is narrated",
    "unmapped_uid": "annotated and in splits.json, but absent from takes.json",
}
"""Irregularities of Ego-Exo4D that a corpus of 8 takes or more contains, all in the train split."""

# Every trap's place among the train takes; `unmapped_uid` has no take, `unsorted_timestamps` any second annotator.
_TRAPS_OF_TRAIN_TAKE = (
    ("text_flags", "equal_timestamps", "rejected_annotation"),
    ("head_camera",),
    ("missing_camera_number", "unreadable_video"),
    ("without_narrations",),
    ("single_narration",),
)

UNIVERSITIES = ("cmu", "unc", "fair", "georgiatech", "sfu", "nus", "uniandes", "utokyo")


@dataclass(frozen=True)
class Task:
    """A task in the numbering of Ego-Exo4D; the names are made up."""

    task_id: int
    name: str
    parent_name: str

    @property
    def parent_id(self) -> int:
        """Id of the scenario."""
        return self.task_id // 1000 * 1000


TASKS = (
    Task(1001, "Setting the Table", "Cooking"),
    Task(1002, "Clearing the Table", "Cooking"),
    Task(2001, "Unpacking a Kit", "Health"),
    Task(4001, "Sorting the Parts", "Bike Repair"),
)


@dataclass(frozen=True)
class TakeSpec:
    """A take before anything happens in it."""

    index: int
    uid: str
    name: str
    split: Split
    university: str
    task: Task
    aria: str
    exo_cameras: tuple[str, ...]
    head_gopro: str | None
    pronoun: str
    num_annotators: int
    traps: frozenset[str] = field(default_factory=frozenset)

    @property
    def video_names(self) -> list[str]:
        """File names of the rendered videos."""
        gopros = self.exo_cameras if self.head_gopro is None else (*self.exo_cameras, self.head_gopro)
        return [f"{self.aria}_214-1.mp4", *(f"{name}.mp4" for name in gopros)]


def make_uid(rng: np.random.Generator) -> str:
    """Returns a random UUID of version 4 that depends on `rng` only."""
    return str(uuid.UUID(bytes=rng.bytes(16), version=4))


def plan_takes(config: SyntheticConfig) -> list[TakeSpec]:
    """Returns the takes of a corpus; with traps, the last one is the unmapped take, which has no videos."""
    rng = np.random.default_rng([config.seed, 0])
    sizes: dict[Split, int] = {
        "train": config.num_train_takes,
        "val": config.num_val_takes,
        "test": config.num_test_takes,
    }
    splits = [split for split, size in sizes.items() for _ in range(size)]
    order = rng.permutation(config.takes)
    specs = [_clean_take(config, rng, index, splits[position]) for index, position in enumerate(order)]
    if not config.with_traps:
        return specs
    train = [spec.index for spec in specs if spec.split == "train"]
    for index, traps in zip(train, _TRAPS_OF_TRAIN_TAKE, strict=False):
        specs[index] = _with_traps(config, specs[index], traps)
    specs = [
        replace(spec, traps=spec.traps | {"unsorted_timestamps"}) if spec.num_annotators == 2 else spec
        for spec in specs
    ]
    unmapped = replace(_clean_take(config, rng, config.takes, "train"), traps=frozenset({"unmapped_uid"}))
    return [*specs, unmapped]


def _clean_take(config: SyntheticConfig, rng: np.random.Generator, index: int, split: Split) -> TakeSpec:
    university = UNIVERSITIES[rng.integers(len(UNIVERSITIES))]
    return TakeSpec(
        index=index,
        uid=make_uid(rng),
        name=f"{university}_table{index:04d}_1",
        split=split,
        university=university,
        task=TASKS[rng.integers(len(TASKS))],
        aria="aria01",
        exo_cameras=_camera_names("cam", config.exo_cameras),
        head_gopro=None,
        pronoun=("his", "her")[rng.integers(2)],
        num_annotators=2 if rng.random() < config.second_annotator_share else 1,
    )


def _camera_names(prefix: str, number: int, missing: int = 0) -> tuple[str, ...]:
    return tuple(islice((f"{prefix}{n:02d}" for n in count(1) if n != missing), number))


def _with_traps(config: SyntheticConfig, spec: TakeSpec, traps: Iterable[str]) -> TakeSpec:
    spec = replace(spec, traps=frozenset(traps))
    if "head_camera" in spec.traps:
        return replace(
            spec,
            name=f"upenn_{spec.index:04d}_Table_1_1",
            university="upenn",
            aria="aria02",
            exo_cameras=_camera_names("gp", config.exo_cameras + 1, missing=5),
            head_gopro="gp05",
        )
    if "missing_camera_number" in spec.traps:
        return replace(spec, exo_cameras=_camera_names("cam", config.exo_cameras, missing=3))
    if "rejected_annotation" in spec.traps:
        return replace(spec, num_annotators=2)
    if "without_narrations" in spec.traps:
        return replace(spec, num_annotators=0)
    if "single_narration" in spec.traps:
        return replace(spec, num_annotators=1)
    return spec
