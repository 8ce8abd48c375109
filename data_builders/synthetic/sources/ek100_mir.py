"""EPIC-KITCHENS-100 retrieval: `retrieval_annotations/EPIC_100_retrieval_test{,_sentence}.csv`, `P01/P01_11.MP4`."""

from __future__ import annotations

from typing import Any

from data_builders.synthetic.sources.draft import Draft, Layout, Truth
from data_builders.synthetic.sources.rendered_takes import RenderedTake
from data_builders.synthetic.sources.wording import EVERY_THING, thing
from data_builders.synthetic.vocabulary import PLACES, TABLE, VERBS, Verb
from data_builders.synthetic.world import Event

FRAME_NUMBERS_PER_SECOND = 60
"""Frame numbers are on this grid, whatever the video's own rate."""
VERB_NAMES: dict[Verb, tuple[str, str]] = {
    "pick up": ("take", "take"),
    "put down": ("put-down", "put down"),
    "push": ("push", "push"),
    "pull": ("pull", "pull"),
    "rotate": ("turn", "turn"),
    "shake": ("shake", "shake"),
    "pour": ("pour", "pour water from"),
    "open": ("open", "open"),
    "close": ("close", "close"),
}
NOUNS = (*(":".join(reversed(name.split())) for name in EVERY_THING), *PLACES, TABLE)
AMBIGUOUS: tuple[Verb, ...] = ("push", "pull")
"""`move red cup` tells both: one caption of two classes."""


def video_id(take: RenderedTake) -> str:
    """Returns the EPIC-KITCHENS id of a take: `P01_11`."""
    return f"P{1 + take.number // 8:02d}_{11 + take.number % 8}"


def link_video(draft: Draft, take: RenderedTake) -> str:
    """Puts a take's video where EPIC-KITCHENS videos lie; returns its path."""
    name = video_id(take)
    path = f"{name.split('_')[0]}/{name}.MP4"
    draft.link(take.ego_video, path)
    return path


def caption(event: Event, *, vague: bool = False) -> str:
    """Returns `put down red cup`; vague: `move red cup` for pushing and pulling."""
    verb = "move" if vague and event.verb in AMBIGUOUS else VERB_NAMES[event.verb][1]
    return f"{verb} {thing(event)}"


def _write(draft: Draft) -> None:
    chosen = sorted(draft.moments()[: draft.rows], key=lambda moment: (video_id(moment[0]), moment[1]))
    rows: list[dict[str, Any]] = []
    for number, (take, index) in enumerate(chosen):
        row = _row(take, index, number, vague=draft.chance.random() < 0.5)
        if number % 20 == 4:
            row["narration_timestamp"] = ""
            draft.set_trap("no_narration_timestamp")
        if number % 15 == 2:
            row["all_nouns"], row["all_noun_classes"] = str([row["noun"]] * 2), str([row["noun_class"]] * 2)
            draft.set_trap("noun_class_twice")
        rows.append(row)
        video = link_video(draft, take)
        event = take.events[index]
        draft.truths.append(
            Truth(
                table="ek100_mir",
                key=row["narration_id"],
                video=video,
                start_s=round(event.start_s, 2),
                end_s=round(event.end_s, 2),
                answer=row["narration"],
                take_uid=take.uid,
                events=(index,),
            )
        )
    folder = "retrieval_annotations"
    draft.csv(f"{folder}/EPIC_100_retrieval_test.csv", rows)
    draft.csv(f"{folder}/EPIC_100_retrieval_test_sentence.csv", _sentences(draft, rows))
    infos = [
        {"video_id": video_id(take), "duration": take.duration_s, "fps": 30.0, "resolution": "1920x1080"}
        for take in draft.takes
    ]
    draft.csv("EPIC_100_video_info.csv", infos)


def _row(take: RenderedTake, index: int, number: int, *, vague: bool) -> dict[str, Any]:
    event = take.events[index]
    start_s, end_s = round(event.start_s, 2), round(event.end_s, 2)
    noun = ":".join((event.shape, event.colour))
    nouns = [noun] if event.verb != "put down" or number % 2 else [noun, event.place]
    told = caption(event, vague=vague) + (f" on {event.place}" if len(nouns) == 2 else "")
    return {
        "narration_id": f"{video_id(take)}_{index}",
        "participant_id": video_id(take).split("_")[0],
        "video_id": video_id(take),
        "narration_timestamp": _clock(event.timestamp_s, 3),
        "start_timestamp": _clock(start_s, 2),
        "stop_timestamp": _clock(end_s, 2),
        "start_frame": round(start_s * FRAME_NUMBERS_PER_SECOND),
        "stop_frame": round(end_s * FRAME_NUMBERS_PER_SECOND),
        "narration": told,
        "verb": "move" if told.startswith("move") else VERB_NAMES[event.verb][0],
        "verb_class": VERBS.index(event.verb),
        "noun": noun,
        "noun_class": NOUNS.index(noun),
        "all_nouns": str(nouns),
        "all_noun_classes": str([NOUNS.index(name) for name in nouns]),
    }


def _clock(seconds: float, digits: int) -> str:
    return f"00:{int(seconds) // 60:02d}:{seconds % 60:0{3 + digits}.{digits}f}"


def _sentences(draft: Draft, rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Returns every caption once, then one row per class that shares its caption: with the text of the next one."""
    unique: dict[str, dict[str, Any]] = {}
    further: dict[tuple[int, str], dict[str, Any]] = {}
    for row in rows:
        first = unique.setdefault(row["narration"], row)
        if row["verb_class"] != first["verb_class"]:
            further.setdefault((row["verb_class"], row["narration"]), row)
    last = list(further.values()) or [rows[0], rows[1]]
    texts = [row["narration"] for row in (*last[1:], last[0])]
    if len(last) == 1:
        texts = [next(text for text in unique if text != last[0]["narration"])]
    for _ in last:
        draft.set_trap("wrong_caption_row")
    sentences = [{"narration_id": row["narration_id"], "narration": text} for text, row in unique.items()]
    wrong = [{"narration_id": row["narration_id"], "narration": t} for row, t in zip(last, texts, strict=True)]
    return [*sentences, *wrong]


LAYOUT = Layout("ek100_mir", "val", _write)
