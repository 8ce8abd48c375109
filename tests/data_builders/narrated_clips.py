"""A clip table like the generated world's: takes of events on coloured objects, some told by two annotators."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow
import pyarrow.parquet

from exo2ego.data.clips import CLIP_SCHEMA
from exo2ego.records import Clip

COLOURS = ("red", "blue", "green", "yellow", "white")
OBJECTS = ("cup", "box", "ball", "plate")
VERBS = {"picks up": "lifts", "pushes": "slides", "rotates": "turns", "shakes": "jiggles", "puts down": "sets down"}
HANDS = ("left", "right")


def make_clip(
    number: int, text: str, *, take: str = "take00", annotator: str = "a", time_s: float = 0, **more: object
) -> Clip:
    """Returns a clip of one second around `time_s`."""
    values = {
        "clip_id": f"{take}/{annotator}/{number}",
        "take_uid": f"uid-{take}",
        "take_name": take,
        "start_s": max(0.0, time_s - 0.5),
        "end_s": time_s + 0.5,
        "timestamp_s": time_s,
        "text": text,
        "annotator": annotator,
        "ego_video": f"takes/{take}/aria01.mp4",
        "exo_videos": [f"takes/{take}/cam01.mp4", f"takes/{take}/cam02.mp4"],
        **more,
    }
    return Clip.model_validate(values)


def narrated_clips(num_takes: int = 12, num_events: int = 15, seed: int = 0) -> list[Clip]:
    """Returns the clips of random events; every third take is told again in other words by a second annotator."""
    rng = random.Random(seed)
    clips = []
    for take_number in range(num_takes):
        take = f"take{take_number:02d}"
        for event in range(num_events):
            verb, colour, thing, hand = (rng.choice(words) for words in (list(VERBS), COLOURS, OBJECTS, HANDS))
            time_s = 1 + 3.0 * event
            text = f"C {verb} the {colour} {thing} with the {hand} hand."
            clips.append(make_clip(event, text, take=take, time_s=time_s))
            if take_number % 3 == 0:
                other = f"C {VERBS[verb]} the {colour} {thing} with the {hand} hand."
                clips.append(make_clip(event, other, take=take, annotator="b", time_s=time_s + rng.uniform(-0.4, 0.4)))
    return clips


def write_clips(path: Path, clips: list[Clip]) -> Path:
    """Writes a clip table as `data_builders.ego_exoclip` does."""
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([clip.model_dump() for clip in clips], CLIP_SCHEMA), path)
    return path
