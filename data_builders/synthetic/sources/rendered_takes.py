"""The takes of a generated corpus, as far as a raw dataset is made of them: their videos and what happens in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_builders.synthetic.config import FRAMES_PER_SECOND, SyntheticConfig
from data_builders.synthetic.egoexo4d_layout import VIDEO_FOLDER
from data_builders.synthetic.ground_truth import read_sidecar
from data_builders.synthetic.takes import Split, plan_takes
from data_builders.synthetic.world import Event
from exo2ego.config import validate_config
from exo2ego.errors import DataError


@dataclass(frozen=True)
class RenderedTake:
    """A take whose videos are there."""

    number: int
    """Its place among the takes of the same split, from 0."""
    uid: str
    task: str
    ego_video: Path
    exo_video: Path
    """The last exocentric camera."""
    num_frames: int
    """Frames of each of its videos, at 30 per second."""
    events: tuple[Event, ...]

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.num_frames / FRAMES_PER_SECOND


def read_rendered_takes(corpus: Path, split: Split) -> list[RenderedTake]:
    """Returns the takes of a split; raises `DataError` where `corpus` is no finished generated corpus."""
    sidecar = read_sidecar(corpus)
    config = validate_config(SyntheticConfig, sidecar["config"], f"{corpus}: synthetic.json")
    specs = [spec for spec in plan_takes(config) if spec.split == split and "unmapped_uid" not in spec.traps]
    takes = []
    for number, spec in enumerate(specs):
        videos = corpus / "takes" / spec.name / VIDEO_FOLDER
        take = RenderedTake(
            number=number,
            uid=spec.uid,
            task=spec.task.name,
            ego_video=videos / spec.video_names[0],
            exo_video=videos / f"{spec.exo_cameras[-1]}.mp4",
            num_frames=config.num_frames,
            events=tuple(Event.model_validate(row) for row in sidecar["takes"][spec.uid]["events"]),
        )
        for video in (take.ego_video, take.exo_video):
            if not video.is_file():
                raise DataError(f"{video}: is missing; run `python -m data_builders.synthetic --out {corpus}` again")
        takes.append(take)
    return takes
