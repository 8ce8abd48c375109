"""OpenEQA: `data/open-eqa-v0.json`; an episode is a folder of frames with depth maps and poses among them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from data_builders.synthetic.config import FRAMES_PER_SECOND
from data_builders.synthetic.sources.draft import Draft, Layout, Truth
from data_builders.synthetic.sources.rendered_takes import RenderedTake
from data_builders.synthetic.sources.wording import tail, thing

SECONDS_BETWEEN_FRAMES = 1
FRAMES_BETWEEN_DEPTH_MAPS = 5
"""The real episodes have a depth map and a pose for every frame; some are enough to be ignored."""
LEFT_LYING_BY = ("put down", "push", "pull", "rotate", "open", "close")
"""After these the object is at the event's place."""


def _write(draft: Draft) -> None:
    rows: list[dict[str, Any]] = []
    for take in draft.takes:
        if len(rows) >= draft.rows:
            break
        asked = list(_questions(take))
        draft.chance.shuffle(asked)
        history = _write_frames(draft, take)
        for category, question, answer, extra, events in asked[: draft.rows - len(rows)]:
            key = draft.uid()
            row = {"question": question, "answer": answer, "category": category, "question_id": key}
            rows.append({**row, "episode_history": history, **({"extra_answers": extra} if extra else {})})
            draft.truths.append(
                Truth(
                    table="openeqa",
                    key=key,
                    video=f"data/frames/{history}",
                    start_s=None,
                    end_s=None,
                    question=question,
                    answer=answer,
                    take_uid=take.uid,
                    events=events,
                )
            )
    draft.json("data/open-eqa-v0.json", rows)


def _questions(take: RenderedTake) -> Iterator[tuple[str, str, str, list[str], tuple[int, ...]]]:
    """Yields (category, question, answer, other answers, events)."""
    last = {event.shape: index for index, event in enumerate(take.events)}
    colours = [take.events[index].colour for index in last.values()]
    for shape, index in last.items():
        event = take.events[index]
        yield "attribute recognition", f"What colour is the {shape}?", event.colour.capitalize(), [], (index,)
        if colours.count(event.colour) == 1:
            question = f"Which {event.colour} object was handled?"
            yield "object recognition", question, f"The {thing(event)}", [], (index,)
        if event.verb in LEFT_LYING_BY:
            question = f"Where is the {thing(event)} at the end?"
            extra = [f"It is on the {event.place}"]
            yield "object localization", question, f"On the {event.place}", extra, (index,)
        lids = [place for place, one in enumerate(take.events) if one.shape == shape and one.verb in ("open", "close")]
        if lids:
            opened = take.events[lids[-1]].verb == "open"
            question = f"Is the {thing(event)} open or closed at the end?"
            yield "object state recognition", question, "Open" if opened else "Closed", [], (lids[-1],)
        pours = [place for place, one in enumerate(take.events) if one.shape == shape and one.verb == "pour"]
        if pours and len({one.shape for one in take.events if one.verb == "pour"}) == 1:
            answer = f"The {thing(event)}"
            yield "functional reasoning", "Which object was water poured from?", answer, [], (pours[0],)
    for index, event in enumerate(take.events[:1]):
        question = f"Where was the {thing(event)} when it was first handled?"
        if event.verb == "pick up":
            answer = tail(event).replace("from", "on").capitalize()
            yield "spatial understanding", question, answer, [], (index,)


def _write_frames(draft: Draft, take: RenderedTake) -> str:
    """Writes an episode's frames, named as ScanNet's or HM3D's are, and returns its name."""
    from_scannet = take.number % 3 != 2
    scene = f"scene{7000 + take.number:04d}_00" if from_scannet else f"{take.uid[:11].replace('-', 'x')}"
    history = (
        f"scannet-v0/{take.number:03d}-scannet-{scene}" if from_scannet else f"hm3d-v0/{take.number:03d}-hm3d-{scene}"
    )
    numbers = range(0, take.num_frames, SECONDS_BETWEEN_FRAMES * FRAMES_PER_SECOND)
    folder = f"data/frames/{history}"
    for number, picture in zip(numbers, draft.pictures(take, numbers), strict=True):
        stem = f"{number:06d}" if from_scannet else f"{number // FRAMES_PER_SECOND:05d}"
        picture.save(draft.path(f"{folder}/{stem}-rgb.png"), compress_level=1)
        if number // FRAMES_PER_SECOND % FRAMES_BETWEEN_DEPTH_MAPS:
            continue
        depth = Image.fromarray(np.full(picture.size[::-1], 1000, np.uint16))
        depth.save(draft.path(f"{folder}/{stem}-depth.png"), compress_level=1)
        draft.text(f"{folder}/{stem}.txt", "1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n")
        draft.set_trap("depth_map_among_frames")
    return history


LAYOUT = Layout("openeqa", "train", _write)
