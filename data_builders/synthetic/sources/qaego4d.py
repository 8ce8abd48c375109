"""QAEgo4D as GroundVQA has it: `data/unified/annotations.QaEgo4D_test{,_close}.json`, `v1/clips/<clip uid>.mp4`."""

from __future__ import annotations

from typing import Any

from data_builders.synthetic.config import FRAMES_PER_SECOND
from data_builders.synthetic.sources.draft import Draft, Layout, Truth
from data_builders.synthetic.sources.questions import about_clip


def _write(draft: Draft) -> None:
    asked = [(take, one) for take in draft.takes for one in about_clip(take.events, draft.chance)]
    draft.chance.shuffle(asked)
    video_uids = {take.uid: draft.uid() for take in draft.takes}
    rows: list[dict[str, Any]] = []
    for number, (take, one) in enumerate(asked[: draft.rows]):
        evidence = take.events[one.events[-1]]
        start_s, end_s, trap = evidence.start_s, evidence.end_s, ""
        if number % 12 == 5:
            start_s, trap = end_s, draft.set_trap("start_is_end")
        key = f"{draft.uid()}_{number % 7}"
        video = f"v1/clips/{take.uid}.mp4"
        draft.link(take.ego_video, video)
        # The clip is a part of a longer Ego4D video, whose timeline the `video_*` keys use.
        offset_s = 100.0 * (1 + take.number)
        rows.append(
            {
                "video_uid": video_uids[take.uid],
                "video_start_sec": offset_s + start_s,
                "video_end_sec": offset_s + end_s,
                "video_start_frame": round((offset_s + start_s) * FRAMES_PER_SECOND),
                "video_end_frame": round((offset_s + end_s) * FRAMES_PER_SECOND),
                "video_id": take.uid,
                "sample_id": key,
                "question": one.question.replace(",", ""),
                "answer": one.answer,
                "moment_start_frame": start_s * FRAMES_PER_SECOND,
                "moment_end_frame": end_s * FRAMES_PER_SECOND,
            }
        )
        # The verified close file is the smaller one.
        tables = ("qaego4d_open", "qaego4d_close") if number % 3 else ("qaego4d_open",)
        for table in tables:
            wrong = one.wrong if table == "qaego4d_close" else ()
            draft.truths.append(
                Truth(
                    table=table,
                    key=key,
                    video=video,
                    start_s=None,
                    end_s=None,
                    question=one.question,
                    answer=one.answer,
                    wrong=wrong,
                    take_uid=take.uid,
                    events=one.events,
                    trap=trap,
                )
            )
        if len(tables) == 2:
            rows[-1]["wrong_answers"] = list(one.wrong)
    opened = [{key: value for key, value in row.items() if key != "wrong_answers"} for row in rows]
    draft.json("data/unified/annotations.QaEgo4D_test.json", opened)
    draft.json("data/unified/annotations.QaEgo4D_test_close.json", [row for row in rows if "wrong_answers" in row])


LAYOUT = Layout("qaego4d", "val", _write)
