"""Something-Something-V2: `labels/{labels,train,validation,test}.json`, `test-answers.csv`, WebM clips at 12 fps.

The labels name what can happen in the generated world; they are not the official 174.
"""

from __future__ import annotations

import re
from typing import Any

from data_builders.synthetic.sources.draft import Draft, Layout, Truth
from data_builders.synthetic.sources.wording import thing
from data_builders.synthetic.vocabulary import TABLE, Verb
from data_builders.synthetic.world import Event

FRAME_RATE = 12
TEMPLATES: dict[Verb, tuple[str, ...]] = {
    "pick up": ("Picking [something] up", "Picking [one of many things] up"),
    "put down": ("Putting [something] onto [something]",),
    "push": ("Pushing [something] away from the camera",),
    "pull": ("Pulling [something] towards the camera",),
    "rotate": ("Rotating [something]",),
    "shake": ("[Something] being shaken up and down",),
    "pour": ("Pouring [some substance] out of [something]",),
    "open": ("Opening [something]",),
    "close": ("Closing [something]",),
}
TO_THE_TABLE = "Putting [something] on a surface"
"""For what is put on the bare table."""


def _write(draft: Draft) -> None:
    draft.json("labels/labels.json", {name: str(number) for number, name in enumerate(_classes())})
    files: dict[str, list[dict[str, Any]]] = {"train": [], "validation": [], "test": []}
    answers = []
    for number, (take, index) in enumerate(draft.moments()[: draft.rows]):
        event, key = take.events[index], str(7000 + 13 * number)
        video = f"20bn-something-something-v2/{key}.webm"
        draft.cut(take, video, event.start_s, event.end_s, FRAME_RATE)
        template, placeholders = _template(event, number)
        label = _label(template, placeholders)
        split = "test" if number % 10 == 9 else "validation" if number % 10 == 8 else "train"
        if split == "test":
            files[split].append({"id": key})
            answers.append(f"{key};{_class_name(template)}")
            draft.set_trap("test_row_without_label")
        else:
            files[split].append({"id": key, "label": label, "template": template, "placeholders": placeholders})
        draft.truths.append(
            Truth(
                table=f"ssv2/{split}",
                key=key,
                video=video,
                start_s=None,
                end_s=None,
                question=_class_name(template),
                answer=_class_name(template) if split == "test" else label,
                take_uid=take.uid,
                offset_s=event.start_s,
                events=(index,),
            )
        )
    for split, rows in files.items():
        draft.json(f"labels/{split}.json", rows)
    draft.text("labels/test-answers.csv", "".join(f"{line}\n" for line in answers))


def _classes() -> list[str]:
    return sorted(
        {_class_name(template) for templates in TEMPLATES.values() for template in templates}
        | {_class_name(TO_THE_TABLE)}
    )


def _class_name(template: str) -> str:
    return template.replace("[", "").replace("]", "")


def _template(event: Event, number: int) -> tuple[str, list[str]]:
    name = thing(event)
    if event.verb == "put down":
        return (TO_THE_TABLE, [name]) if event.place == TABLE else (TEMPLATES["put down"][0], [name, event.place])
    templates = TEMPLATES[event.verb]
    return templates[number % len(templates)], (["water", name] if event.verb == "pour" else [name])


def _label(template: str, placeholders: list[str]) -> str:
    """Returns the template with its brackets filled, in lower case."""
    names = iter(placeholders)
    return re.sub(r"\[[^\]]*\]", lambda _: next(names), template).lower()


LAYOUT = Layout("ssv2", "train", _write)
