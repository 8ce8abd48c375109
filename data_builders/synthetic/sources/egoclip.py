"""EgoClip: `egoclip.csv`, separated by tabs, and Ego4D videos in chunks of at most 600 s, `<video uid>/<k>.mp4`."""

from __future__ import annotations

from typing import Any

from data_builders.synthetic.sources.draft import Draft, Layout, Truth
from data_builders.synthetic.sources.rendered_takes import RenderedTake
from data_builders.synthetic.sources.wording import FORMS, tail, told
from data_builders.synthetic.vocabulary import COLOURS, SHAPES, VERBS
from data_builders.synthetic.world import Event


def clip_record(take: RenderedTake, index: int, text: str) -> dict[str, Any]:
    """Returns a row of EgoClip about an event, without its `clip_idx` (EgoMCQ holds the same records)."""
    event = take.events[index]
    return {
        "video_uid": take.uid,
        "video_dur": round(take.duration_s, 6),
        "narration_source": "narration_pass_1" if take.number % 2 else "narration_pass_2",
        "narration_ind": index,
        "narration_time": event.timestamp_s,
        "clip_start": event.start_s,
        "clip_end": event.end_s,
        "clip_text": text,
        "tag_verb": str([VERBS.index(event.verb)]),
        "tag_noun": str([SHAPES.index(event.shape), len(SHAPES) + COLOURS.index(event.colour)]),
    }


def clip_text(event: Event) -> str:
    """Returns `#C C picks up the red cup from the table`."""
    return f"#C C {told(event, 'third', with_place=True)}"


def _write(draft: Draft) -> None:
    rows = []
    for number, (take, index) in enumerate(draft.moments()[: draft.rows]):
        event, trap = take.events[index], ""
        row = {"clip_idx": number, **clip_record(take, index, clip_text(event))}
        if number % 20 == 3:
            row["clip_text"] = f"#C C {FORMS[event.verb].third} #unsure {tail(event)}"
            trap = draft.set_trap("unsure_tag")
        elif number % 20 == 7:
            row["clip_text"] += ' "'
            trap = draft.set_trap("stray_quote")
        elif index == 0:
            row["clip_start"] = -event.start_s
            trap = draft.set_trap("starts_before_the_video")
        elif index == len(take.events) - 1:
            row["clip_end"] = take.duration_s + 0.5
            trap = draft.set_trap("ends_after_the_video")
        video = f"{take.uid}/0.mp4"
        draft.link(take.ego_video, video)
        rows.append(row)
        draft.truths.append(
            Truth(
                table="egoclip",
                key=str(number),
                video=video,
                start_s=max(0.0, row["clip_start"]),
                end_s=min(take.duration_s, row["clip_end"]),
                answer=row["clip_text"],
                take_uid=take.uid,
                events=(index,),
                trap=trap,
            )
        )
    header = "\t".join(rows[0])
    # Written plainly: the real file holds quotes that do not quote anything.
    lines = ["\t".join(str(value) for value in row.values()) for row in rows]
    draft.text("egoclip.csv", "\n".join([header, *lines]) + "\n")


LAYOUT = Layout("egoclip", "train", _write)
