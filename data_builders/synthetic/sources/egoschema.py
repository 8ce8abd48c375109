"""EgoSchema: `questions.json` (keys with a space), `subset_answers.json`, `videos/<q_uid>.mp4` cut from takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from data_builders.synthetic.sources.draft import Draft, Layout, Truth
from data_builders.synthetic.sources.questions import QuestionAndAnswer
from data_builders.synthetic.sources.rendered_takes import RenderedTake
from data_builders.synthetic.sources.wording import other_things, thing, told
from data_builders.synthetic.world import Event

NUM_OPTIONS = 5
CLIP_EVENTS = (5, 12)
"""Fewest and most events of a clip; the real ones last 180 s, a take need not."""


def _write(draft: Draft) -> None:
    questions, labels, spans = [], {}, {}
    windows = [(take, first) for take in draft.takes for first in range(len(take.events) - CLIP_EVENTS[0] + 1)]
    draft.chance.shuffle(windows)
    for number, (take, first) in enumerate(windows[: min(draft.rows, 4 * len(draft.takes))]):
        events = take.events[first : first + draft.chance.randint(*CLIP_EVENTS)]
        asked = draft.chance.choice(list(_questions(events, draft)))
        key, offset_s, end_s = draft.uid(), *_whole_seconds(take, events)
        video = f"videos/{key}.mp4"
        draft.cut(take, video, offset_s, end_s)
        options = [asked.answer, *asked.wrong]
        draft.chance.shuffle(options)
        questions.append(
            {
                "q_uid": key,
                "google_drive_id": f"{draft.chance.getrandbits(128):032x}",
                "question": asked.question,
                **{f"option {place}": option for place, option in enumerate(options)},
            }
        )
        spans[key] = {"video_uid": take.uid, "starting_sec": int(offset_s), "ending_sec": int(end_s)}
        trap = ""
        if number % 2:
            trap = draft.set_trap("label_not_public")
        else:
            labels[key] = options.index(asked.answer)
        draft.truths.append(
            Truth(
                table="egoschema",
                key=key,
                video=video,
                start_s=None,
                end_s=None,
                question=asked.question,
                answer=asked.answer,
                wrong=asked.wrong,
                take_uid=take.uid,
                offset_s=offset_s,
                events=tuple(first + index for index in asked.events),
                trap=trap,
            )
        )
    draft.json("questions.json", questions)
    draft.json("subset_answers.json", labels)
    draft.json("uid_to_ego4d.json", spans)


def _whole_seconds(take: RenderedTake, events: Sequence[Event]) -> tuple[float, float]:
    """Returns a span in whole seconds about some events."""
    return float(int(events[0].start_s)), min(take.duration_s, float(int(events[-1].end_s) + 1))


def _questions(events: Sequence[Event], draft: Draft) -> Iterator[QuestionAndAnswer]:
    """Yields questions about the events of a whole clip."""
    everything = tuple(range(len(events)))
    first, last = (told(events[place], "third") for place in (0, -1))
    others = sorted({told(event, "third") for event in events} - {first, last})
    wrong = [f"C first {last}, and at the end c {first}."]
    wrong += [f"C first {first}, and at the end c {other}." for other in others[:2]]
    wrong += [f"C first {other}, and at the end c {last}." for other in others[-2:]]
    wrong = [text for text in dict.fromkeys(wrong) if text != f"C first {first}, and at the end c {last}."]
    if len(wrong) >= NUM_OPTIONS - 1:
        question = "How does c's activity begin and end in the video? summarise it in one sentence."
        answer = f"C first {first}, and at the end c {last}."
        yield QuestionAndAnswer(question, answer, tuple(wrong[: NUM_OPTIONS - 1]), (0, len(events) - 1))
    handled = Counter(thing(event) for event in events).most_common()
    if len(handled) == 1 or handled[0][1] > handled[1][1]:
        question = "Which object does c handle most often throughout the video?"
        names = [name for name, _ in handled[1:4]]
        names += other_things(handled[0][0], draft.chance, NUM_OPTIONS - 1 - len(names), [name for name, _ in handled])
        wrong = [f"C handles the {name} most often" for name in names]
        yield QuestionAndAnswer(question, f"C handles the {handled[0][0]} most often", tuple(wrong), everything)
    counted = len({thing(event) for event in events})
    numbers = [number for number in range(1, 7) if number != counted][: NUM_OPTIONS - 1]
    wrong = [f"C handles {number} different objects" for number in numbers]
    answer = f"C handles {counted} different objects"
    yield QuestionAndAnswer("How many different objects does c handle?", answer, tuple(wrong), everything)


LAYOUT = Layout("egoschema", "val", _write)
