"""Charades-Ego: `CharadesEgo_v1_test_only1st.csv`, `Charades_v1_classes.txt`, `CharadesEgo_v1_480/<id>.mp4`.

The classes name what can happen in the generated world; they are not the official 157.
"""

from __future__ import annotations

import string

from data_builders.synthetic.sources.draft import Draft, Layout, Truth
from data_builders.synthetic.sources.rendered_takes import RenderedTake
from data_builders.synthetic.sources.wording import FORMS, told
from data_builders.synthetic.vocabulary import SHAPES_OF_VERB
from data_builders.synthetic.world import Event

CLASSES = tuple((verb, shape) for verb, shapes in SHAPES_OF_VERB.items() for shape in shapes)
VIDEO_EVENTS = 8
"""A video shows about this many events of a take, as Charades videos show about eight actions."""


def _write(draft: Draft) -> None:
    # As in the official file: a space at the end of one class, and no line break at the end.
    lines = [f"c{number:03d} {_class_text(number)}" for number in range(len(CLASSES))]
    lines[-3] += " "
    draft.set_trap("class_ends_in_a_space")
    draft.text("CharadesEgo/Charades_v1_classes.txt", "\n".join(lines))
    rows: list[dict[str, object]] = []
    spans = [(take, first) for take in draft.takes for first in range(0, len(take.events), VIDEO_EVENTS)]
    draft.chance.shuffle(spans)
    for number, (take, first) in enumerate(spans[: draft.rows]):
        rows.append(_write_video(draft, take, first, is_empty=len(rows) > 3 and number % 9 == 4))
    draft.csv("CharadesEgo/CharadesEgo_v1_test_only1st.csv", rows, quoted=True)


def _class_text(number: int) -> str:
    verb, shape = CLASSES[number]
    return f"{FORMS[verb].gerund.capitalize()} a {shape}"


def _write_video(draft: Draft, take: RenderedTake, first: int, *, is_empty: bool) -> dict[str, object]:
    """Cuts one video and returns its row; the last action goes on after the end of the video."""
    events = take.events[first : first + VIDEO_EVENTS]
    key = "".join(draft.chance.choices(string.ascii_uppercase + string.digits, k=5)) + "EGO"
    offset_s = events[0].start_s
    length_s = round(events[-1].end_s - offset_s - 0.2, 3)
    video = f"CharadesEgo_v1_480/{key}.mp4"
    draft.cut(take, video, offset_s, offset_s + length_s)
    actions = []
    for place, event in enumerate(events):
        number = CLASSES.index((event.verb, event.shape))
        start_s, end_s = event.start_s - offset_s, event.end_s - offset_s
        trap = draft.set_trap("action_ends_after_the_video") if end_s > length_s else ""
        actions.append(f"c{number:03d} {start_s:.4f} {end_s:.4f}")
        if is_empty:
            continue
        draft.truths.append(
            Truth(
                table="charades_ego",
                key=key,
                video=video,
                start_s=start_s,
                end_s=min(end_s, length_s),
                answer=_class_text(number),
                take_uid=take.uid,
                offset_s=offset_s,
                events=(first + place,),
                trap=trap,
            )
        )
    if is_empty:
        draft.set_trap("video_without_actions")
    return {
        "id": key,
        "subject": "",
        "scene": "Kitchen",
        "quality": "",
        "relevance": "",
        "verified": "Yes",
        "script": f"A person {_list(events)}.",
        "objects": ";".join(sorted({event.shape for event in events})),
        "descriptions": "",
        "actions": "" if is_empty else ";".join(actions),
        "length": length_s,
        "egocentric": "Yes",
        "charades_video": key[:5],
    }


def _list(events: tuple[Event, ...]) -> str:
    return ", then ".join(told(event, "third") for event in events[:3])


LAYOUT = Layout("charades_ego", "val", _write)
