"""EgoTimeQA (GroundVQA): `data/unified/annotations.EgoTimeQA.json`, Ego4D clips as `v2/clips/<clip uid>.mp4`."""

from __future__ import annotations

from typing import Any

from data_builders.synthetic.config import FRAMES_PER_SECOND
from data_builders.synthetic.sources.draft import Draft, Layout, Truth
from data_builders.synthetic.sources.questions import about_moment


def _write(draft: Draft) -> None:
    rows: list[dict[str, Any]] = []
    for number, (take, index) in enumerate(draft.moments()[: draft.rows]):
        event = take.events[index]
        asked = draft.chance.choice(about_moment(event, index, draft.chance))
        question, trap = asked.question, ""
        if number % 20 == 5 and " I " in question:
            question, trap = question.replace(" I ", " l "), draft.set_trap("l_for_I")
        video = f"v2/clips/{take.uid}.mp4"
        draft.link(take.ego_video, video)
        rows.append(
            {
                "video_id": take.uid,
                "sample_id": take.uid,
                "answer": asked.answer,
                "question": question,
                "moment_start_frame": event.start_s * FRAMES_PER_SECOND,
                "moment_end_frame": event.end_s * FRAMES_PER_SECOND,
                "wrong_answers": list(asked.wrong),
            }
        )
        draft.truths.append(
            Truth(
                table="egotimeqa",
                key=take.uid,
                video=video,
                start_s=event.start_s,
                end_s=event.end_s,
                question=asked.question,
                answer=asked.answer,
                wrong=asked.wrong,
                take_uid=take.uid,
                events=asked.events,
                trap=trap,
            )
        )
    for _ in range(len(rows) - len({row["sample_id"] for row in rows})):
        draft.set_trap("sample_id_again")
    draft.json("data/unified/annotations.EgoTimeQA.json", rows)


LAYOUT = Layout("egotimeqa", "train", _write)
