"""EgoExoLearn: `annotations/fine_annotation_trainval_en.csv`, coarse steps in `l1/`, `videos/<video uid>.mp4`."""

from __future__ import annotations

from typing import Any

from data_builders.synthetic.sources.draft import Draft, Layout, Truth, span_of
from data_builders.synthetic.sources.rendered_takes import RenderedTake
from data_builders.synthetic.sources.wording import told
from data_builders.synthetic.world import Event

EXO_SUFFIX = "-56c4-11ee-88ee-80615f12b59e"
EGO_SUFFIX = "-ac78-11ee-819f-80615f12b59e"
STEP_EVENTS = 4


def _write(draft: Draft) -> None:
    stems = {take.uid: f"{draft.chance.getrandbits(32):08x}" for take in draft.takes}
    rows = []
    for number, (take, index) in enumerate(draft.moments()[: draft.rows]):
        event, trap = take.events[index], ""
        view, suffix = "ego", EGO_SUFFIX
        if number % 10 == 4:
            view, trap = "exo", draft.set_trap("exo_row")
            # Some exo videos have the suffix of the ego ones: the column decides.
            suffix = EGO_SUFFIX if take.number % 2 else EXO_SUFFIX
        uid = f"{'e' if view == 'exo' else 'b'}{stems[take.uid][1:]}{suffix}"
        video = f"videos/{uid}.mp4"
        draft.link(take.exo_video if view == "exo" else take.ego_video, video)
        key, captions = f"{draft.chance.getrandbits(32):08x}", _captions(event)
        row = {
            "video_uid": uid,
            "annotation_id": key,
            "subset": "val" if number % 6 == 5 else "train",
            "view": view,
            "scene": "kitchen" if take.number % 2 else "lab",
            "start_sec": event.start_s,
            "end_sec": event.end_s,
            **captions,
        }
        rows.append(row)
        draft.truths.append(
            Truth(
                table="egoexolearn",
                key=key,
                video=video,
                start_s=event.start_s,
                end_s=event.end_s,
                answer=captions["narration_en_no_hand_prompt"],
                take_uid=take.uid,
                events=(index,),
                trap=trap,
            )
        )
    draft.csv("annotations/fine_annotation_trainval_en.csv", rows)
    _write_coarse(draft, stems)


def _captions(event: Event) -> dict[str, str]:
    what = told(event, "base", with_place=True)
    return {
        # A comma within the field: it is quoted.
        "narration_en": f"With your {event.hand} hand, {what}.",
        "narration_en_hand_prompt": f"The {event.hand} hand {told(event, 'third', with_place=True)}.",
        "narration_en_no_hand_prompt": f"Use your hand to {what}.",
    }


def _write_coarse(draft: Draft, stems: dict[str, str]) -> None:
    """Writes `l1/<video uid>.json`: steps of a few events, one of them with its end before its start."""
    names = {str(number): f"step {number}" for number in range(1, 28)}
    draft.json("annotations/semantic_en.json", names)
    for take in draft.takes[:8]:
        steps = [_step(take, first) for first in range(0, len(take.events), STEP_EVENTS)]
        if take.number == 0:
            steps[-1]["end"] = steps[-1]["start"] - 0.5
            draft.set_trap("coarse_end_before_start")
        draft.json(f"annotations/l1/b{stems[take.uid][1:]}{EGO_SUFFIX}.json", steps)


def _step(take: RenderedTake, first: int) -> dict[str, Any]:
    events = take.events[first : first + STEP_EVENTS]
    start_s, end_s = span_of(events)
    text = "\n".join(f"{number}. {told(event, 'base').capitalize()}" for number, event in enumerate(events, 1))
    return {
        "start": start_s,
        "end": end_s,
        "attribute": str(1 + first // STEP_EVENTS),
        "duration": take.duration_s,
        "id": f"{take.number}_{first}",
        "type": 0,
        "textAttribute_en": text,
    }


LAYOUT = Layout("egoexolearn", "train", _write)
