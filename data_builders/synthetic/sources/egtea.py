"""EGTEA Gaze+: `action_annotation/` with its 0-based and 1-based tables, session videos, and trimmed, padded clips."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from data_builders.synthetic.sources.draft import Draft, Layout, Truth
from data_builders.synthetic.sources.rendered_takes import RenderedTake
from data_builders.synthetic.vocabulary import Verb
from data_builders.synthetic.world import Event

FRAME_RATE = 24
"""Of the trimmed clips and of the frame numbers in their names."""
PADDING_SHARE = 0.1
"""A trimmed clip is longer than its action by this share on both sides."""
NUM_SPLITS = 3
VERBS: dict[Verb, str] = {
    "pick up": "Take",
    "put down": "Put",
    "push": "Push/Slide",
    "pull": "Pull",
    "rotate": "Move Around",
    "shake": "Shake",
    "pour": "Pour",
    "open": "Open",
    "close": "Close",
}


@dataclass(frozen=True)
class _Action:
    """A row of raw_annotations/action_labels.csv."""

    take: RenderedTake
    index: int
    session: str
    start_ms: int
    end_ms: int
    verb: str
    nouns: tuple[str, ...]

    @property
    def label(self) -> str:
        return f"{self.verb} {','.join(self.nouns)}"

    @property
    def prefix(self) -> str:
        return f"{self.session}-{self.start_ms}-{self.end_ms}"


def _write(draft: Draft) -> None:
    actions = [_action(take, index) for take, index in draft.moments()[: draft.rows]]
    lines = [
        "# Clip ID (Unique, used only internally); Clip Prefix (Unique); Video Session; Starting Time (ms);  "
        "Ending Time (ms); Action Label; Verb Label; Noun Label(s)"
    ]
    for number, action in enumerate(actions, 1):
        fields = (number, action.prefix, action.session, action.start_ms, action.end_ms, action.label, action.verb)
        lines.append("; ".join(map(str, (*fields, ",".join(action.nouns)))))
        video = f"{action.session}.mp4"
        draft.link(action.take.ego_video, video)
        draft.truths.append(_truth(action, "raw", action.prefix, video, action.start_ms / 1000, action.end_ms / 1000))
    draft.text("action_annotation/raw_annotations/action_labels.csv", "\n".join(lines) + "\n")
    _write_splits(draft, actions)


def _action(take: RenderedTake, index: int) -> _Action:
    event = take.events[index]
    session = f"P{1 + take.number:02d}-R{1 + take.number % 7:02d}-{take.task.replace(' ', '')}"
    return _Action(
        take, index, session, round(event.start_s * 1000), round(event.end_s * 1000), VERBS[event.verb], _nouns(event)
    )


def _nouns(event: Event) -> tuple[str, ...]:
    name = f"{event.colour}_{event.shape}"
    if event.verb == "pour":
        return ("water", name)
    return (name, event.place) if event.verb == "put down" else (name,)


def _truth(action: _Action, kind: str, key: str, video: str, start_s: float | None, end_s: float | None) -> Truth:
    return Truth(
        table=f"egtea/{kind}",
        key=key,
        video=video,
        start_s=start_s,
        end_s=end_s,
        answer=action.label,
        take_uid=action.take.uid,
        events=(action.index,),
        offset_s=0.0 if kind == "raw" else _padded(action)[0] / FRAME_RATE,
    )


def _padded(action: _Action) -> tuple[int, int]:
    """Returns the first and last frame of the trimmed clip, at 24 per second."""
    padding = PADDING_SHARE * (action.end_ms - action.start_ms)
    last = int(action.take.duration_s * FRAME_RATE) - 1
    first_frame = max(0, round((action.start_ms - padding) / 1000 * FRAME_RATE))
    return first_frame, min(last, round((action.end_ms + padding) / 1000 * FRAME_RATE))


def _write_splits(draft: Draft, actions: list[_Action]) -> None:
    """Writes classes, which count from 1 here and from 0 there, three splits of the same clips, and the clips."""
    often = [label for label, _ in Counter(action.label for action in actions).most_common()]
    classes = often[: max(1, len(often) // 4)]
    trimmed = [action for action in actions if action.label in classes]
    class_of = {action.label: action for action in trimmed}
    verbs = sorted({action.verb for action in trimmed})
    nouns = sorted({noun for action in trimmed for noun in action.nouns})
    for name, words in (("action", classes), ("verb", verbs), ("noun", nouns)):
        numbered = (f"{word} {number}" for number, word in enumerate(words, 1))
        draft.text(f"action_annotation/{name}_idx.txt", "\n".join(numbered) + "\n")
    zero_based = ["# Action ID; Action Label; Verb Label; Noun Label(s)"]
    for number, label in enumerate(classes):
        zero_based.append(f"{number}; {label} ; {class_of[label].verb}; {','.join(class_of[label].nouns)}")
    draft.text("action_annotation/raw_annotations/cls_label_index.csv", "\n".join(zero_based) + "\n")
    draft.set_trap("class_ids_from_0_and_from_1")
    lines = []
    for action in trimmed:
        first, last = _padded(action)
        clip = f"{action.prefix}-F{first:06d}-F{last:06d}"
        video = f"cropped_clips/{action.session}/{clip}.mp4"
        draft.cut(action.take, video, first / FRAME_RATE, (last + 1) / FRAME_RATE, FRAME_RATE)
        draft.truths.append(_truth(action, "splits", clip, video, None, None))
        ids = [
            1 + classes.index(action.label),
            1 + verbs.index(action.verb),
            *(1 + nouns.index(n) for n in action.nouns),
        ]
        lines.append(" ".join(map(str, (clip, *ids))))
    for split in range(NUM_SPLITS):
        test = lines[split::4]
        draft.text(f"action_annotation/test_split{split + 1}.txt", "".join(f"{line}\n" for line in test))
        train = "".join(f"{line}\n" for line in lines if line not in test)
        draft.text(f"action_annotation/train_split{split + 1}.txt", train)


LAYOUT = Layout("egtea", "train", _write)
