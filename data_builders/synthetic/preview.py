"""A contact sheet: some events of a corpus in both views, with what the annotators wrote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_builders.synthetic.config import FRAMES_PER_SECOND
from data_builders.synthetic.egoexo4d_layout import VIDEO_FOLDER
from data_builders.synthetic.ground_truth import read_ground_truth
from data_builders.synthetic.vocabulary import VERBS
from data_builders.synthetic.world import Event
from exo2ego.errors import DataError
from exo2ego.storage import atomic_path, read_json

FRAMES_PER_VIEW = 4
FRAME_HEIGHT_PX = 144
MARGIN_PX = 10
CAPTION_PX = 48
SAME_EVENT_S = 0.4
"""A narration nearer than this to an event is about it."""

Descriptions = dict[str, list[dict[str, Any]]]


def draw_contact_sheet(root: Path, path: Path) -> None:
    """Draws a narrated event of every verb, each from another take where possible; raises `DataError`."""
    takes = {take["take_uid"]: take for take in read_json(root / "takes.json", "list of takes")}
    descriptions = _descriptions(root)
    truth = {uid: events for uid, events in read_ground_truth(root).items() if uid in takes and uid in descriptions}
    rows = [
        _row(
            root / "takes" / takes[uid]["take_name"] / VIDEO_FOLDER, takes[uid], event, _about(event, descriptions[uid])
        )
        for uid, event in _choose(truth, descriptions)
    ]
    if not rows:
        raise DataError(f"{root}: no narrated event to show")
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="png")


def _choose(truth: dict[str, list[Event]], descriptions: Descriptions) -> Iterator[tuple[str, Event]]:
    uids = list(truth)
    for verb in VERBS:
        for uid in uids:
            events = (event for event in truth[uid] if event.verb == verb and event.best_exo)
            event = next((event for event in events if _about(event, descriptions[uid])), None)
            if event is not None:
                yield uid, event
                uids = [other for other in uids if other != uid] + [uid]
                break


def _about(event: Event, descriptions: Sequence[dict[str, Any]]) -> list[str]:
    return [one["text"] for one in descriptions if abs(one["timestamp"] - event.timestamp_s) < SAME_EVENT_S]


def _descriptions(root: Path) -> Descriptions:
    merged: Descriptions = {}
    for split in ("train", "val"):
        content = read_json(root / "annotations" / f"atomic_descriptions_{split}.json", "atomic descriptions")
        for uid, by_annotator in content["annotations"].items():
            merged[uid] = [row for one in by_annotator if not one["rejected"] for row in one["descriptions"]]
    return merged


def _row(folder: Path, take: dict[str, Any], event: Event, texts: Sequence[str]) -> Image.Image:
    aria = next(camera for camera in take["frame_aligned_videos"] if camera.startswith("aria"))
    times = np.linspace(event.start_s, event.end_s, 2 * FRAMES_PER_VIEW + 1)[1::2].tolist()
    views = [folder / f"{aria}_214-1.mp4", folder / f"{event.best_exo}.mp4"]
    frames = [frame for view in views for frame in _frames(view, times)]
    width = MARGIN_PX + sum(frame.width + MARGIN_PX for frame in frames)
    row = Image.new("RGB", (width, CAPTION_PX + FRAME_HEIGHT_PX + MARGIN_PX), "white")
    canvas = ImageDraw.Draw(row)
    canvas.text((MARGIN_PX, 4), "   |   ".join(texts), fill="black", font=ImageFont.load_default(17))
    details = f"{take['take_name']}  {event.start_s:.2f}-{event.end_s:.2f} s   ego {aria} | exo {event.best_exo}"
    seen = "" if event.ego_visible else "   (outside the ego frame at the middle)"
    canvas.text((MARGIN_PX, 27), details + seen, fill="gray", font=ImageFont.load_default(13))
    left = MARGIN_PX
    for frame in frames:
        row.paste(frame, (left, CAPTION_PX))
        left += frame.width + MARGIN_PX
    return row


def _frames(path: Path, times_s: Sequence[float]) -> list[Image.Image]:
    """Reads the frames at `times_s`, enlarged without smoothing so that every pixel shows."""
    wanted = {round(time * FRAMES_PER_SECOND) for time in times_s}
    try:
        with av.open(str(path)) as container:
            decoded = [frame.to_image() for index, frame in enumerate(container.decode(video=0)) if index in wanted]
    except (OSError, av.error.InvalidDataError):
        unreadable = Image.new("RGB", (FRAME_HEIGHT_PX, FRAME_HEIGHT_PX), "black")
        ImageDraw.Draw(unreadable).text((10, 60), "unreadable", fill="white")
        return [unreadable]
    return [
        image.resize((round(image.width * FRAME_HEIGHT_PX / image.height), FRAME_HEIGHT_PX), Image.Resampling.NEAREST)
        for image in decoded
    ]
