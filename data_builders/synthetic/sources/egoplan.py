"""EgoPlan: `EgoPlan_validation.json`, of Ego4D (`v1_288p/<uid>.mp4`, 30 fps) and EPIC-KITCHENS (60 fps)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from data_builders.synthetic.config import FRAMES_PER_SECOND
from data_builders.synthetic.sources.draft import Draft, Layout, Truth
from data_builders.synthetic.sources.ek100_mir import FRAME_NUMBERS_PER_SECOND, link_video, video_id
from data_builders.synthetic.sources.rendered_takes import RenderedTake
from data_builders.synthetic.sources.wording import other_places, tail, thing, told
from data_builders.synthetic.world import Event


def _write(draft: Draft) -> None:
    goals = [(take, first, index) for take in draft.takes for first, index in _moves(take.events)]
    draft.chance.shuffle(goals)
    rows = [_row(draft, number, *goal) for number, goal in enumerate(goals[: draft.rows])]
    draft.json("EgoPlan_validation.json", rows)


def _moves(events: Sequence[Event]) -> list[tuple[int | None, int]]:
    """Returns (picking up, putting down) of every object that is carried; for each, also the pick-up that comes next.

    (None, index): nothing of the goal was done yet, the next action is the pick-up at `index`.
    """
    moves: list[tuple[int | None, int]] = []
    held: dict[str, int] = {}
    for index, event in enumerate(events):
        if event.verb == "pick up":
            held[event.shape] = index
        elif event.verb == "put down" and event.shape in held:
            first = held.pop(event.shape)
            moves.append((first, index))
            if first > 0:
                moves.append((None, first))
    return moves


def _row(draft: Draft, number: int, take: RenderedTake, first: int | None, index: int) -> dict[str, Any]:
    """Returns a question asked at the instant at which the event `index` begins."""
    event = take.events[index]
    from_epic = number % 4 == 3
    rate = FRAME_NUMBERS_PER_SECOND if from_epic else FRAMES_PER_SECOND
    done = [] if first is None else [take.events[place] for place in range(first, index)]
    lifted, put_down = (event, _put_down_after(take.events, index)) if first is None else (take.events[first], event)
    goal = f"move the {thing(put_down)} {tail(put_down).replace('on', 'onto', 1)}"
    answer = _choice(event)
    # Both steps to the goal are there: which one comes next can only be seen.
    steps = [_choice(lifted), _choice(put_down)]
    choices = [*steps, *_other_actions(draft, take.events, put_down)]
    draft.chance.shuffle(choices)
    letters = "abcd"
    video = link_video(draft, take) if from_epic else f"v1_288p/{take.uid}.mp4"
    if not from_epic:
        draft.link(take.ego_video, video)
    observed_frame = int(event.start_s * rate)
    trap = draft.set_trap("no_progress_metadata") if not done else draft.set_trap("frames_at_60") if from_epic else ""
    draft.truths.append(
        Truth(
            table="egoplan",
            key=str(1000 + number),
            video=video,
            start_s=done[0].start_s if done else None,
            end_s=observed_frame / rate,
            question=goal,
            answer=answer,
            wrong=tuple(choice for choice in choices if choice != answer),
            take_uid=take.uid,
            events=(index,),
            trap=trap,
        )
    )
    return {
        "sample_id": 1000 + number,
        "video_source": "EpicKitchens" if from_epic else "Ego4D",
        "video_id": video_id(take) if from_epic else take.uid,
        "task_goal": goal,
        "question": "Considering the progress shown in the video and my current observation in the last frame, what "
        f"action should I take next in order to {goal}?",
        **{f"choice_{letter}": choice for letter, choice in zip(letters, choices, strict=True)},
        "golden_choice_idx": letters[choices.index(answer)].upper(),
        "answer": answer,
        "current_observation_frame": observed_frame,
        "task_progress_metadata": [
            {
                "narration_text": told(past, "base"),
                "start_frame": int(past.start_s * rate),
                "stop_frame": int(past.end_s * rate),
            }
            for past in done
        ],
    }


def _put_down_after(events: Sequence[Event], first: int) -> Event:
    """Returns how the object that is picked up at `first` is put down."""
    return next(event for event in events[first:] if event.verb == "put down" and event.shape == events[first].shape)


def _choice(event: Event) -> str:
    return told(event, "base", with_place=True)


def _other_actions(draft: Draft, events: Sequence[Event], put_down: Event) -> list[str]:
    """Draws actions that are no step to the goal: what is done to other objects, or putting this one elsewhere."""
    others = sorted({_choice(event) for event in events if event.shape != put_down.shape})
    elsewhere = [f"put down the {thing(put_down)} on the {place}" for place in other_places(put_down.place)]
    return draft.chance.sample(others, 1) + draft.chance.sample(elsewhere, 1) if others else elsewhere[:2]


LAYOUT = Layout("egoplan", "val", _write)
