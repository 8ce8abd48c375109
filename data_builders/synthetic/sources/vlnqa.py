"""VLN-QA (MVBench): `json/egocentric_navigation.json`, whole clips as `video/vlnqa/<id>.mp4`.

Nobody walks in the generated world: the instruction names four things to do, the clip ends when some of them are done,
and the next action is the one that truly follows.
"""

from __future__ import annotations

from typing import Any

from data_builders.synthetic.sources.draft import Draft, Layout, Truth
from data_builders.synthetic.sources.rendered_takes import RenderedTake
from data_builders.synthetic.sources.wording import told

NUM_STEPS = 4
REPEATED_EVERY = 12
"""Some questions of MVBench are there twice."""


def _write(draft: Draft) -> None:
    rows: list[dict[str, Any]] = []
    for take, index in draft.moments():
        steps = [told(event, "base", with_place=True) for event in take.events[index : index + NUM_STEPS]]
        if len(set(steps)) == NUM_STEPS and len(rows) < draft.rows:
            rows.append(_row(draft, take, index, steps))
            if len(rows) % REPEATED_EVERY == REPEATED_EVERY - 1:
                rows.append(rows[-1])
                draft.set_trap("question_again")
    draft.json("json/egocentric_navigation.json", rows)


def _row(draft: Draft, take: RenderedTake, first: int, steps: list[str]) -> dict[str, Any]:
    """Cuts a clip in which some of the steps are done and returns the question about the next one."""
    num_done = draft.chance.randint(1, NUM_STEPS - 1)
    then = first + num_done
    instruction = f"{', '.join(steps[:-1])}, then {steps[-1]}.".capitalize()
    question = (
        f'This is a navigation video of an agent following instruction: "{instruction}" '
        "What is the next action it should take?"
    )
    candidates = [step.capitalize() for step in steps]
    answer = candidates[num_done]
    draft.chance.shuffle(candidates)
    name = f"{take.uid[:8]}_{first:03d}.mp4"
    start_s = take.events[first].start_s
    draft.cut(take, f"video/vlnqa/{name}", start_s, take.events[then].start_s)
    draft.truths.append(
        Truth(
            table="vlnqa",
            key=name,
            video=f"video/vlnqa/{name}",
            start_s=None,
            end_s=None,
            question=question,
            answer=answer,
            wrong=tuple(candidate for candidate in candidates if candidate != answer),
            take_uid=take.uid,
            offset_s=start_s,
            events=(then,),
        )
    )
    return {"video": name, "question": question, "candidates": candidates, "answer": answer}


LAYOUT = Layout("vlnqa", "val", _write)
