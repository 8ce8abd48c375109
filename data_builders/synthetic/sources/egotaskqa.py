"""EgoTaskQA: `qa/{direct,indirect}/{train,val,test}_qas.json`, clips `qa_videos/<vid|pid|start|end>.mp4` at 24 fps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from data_builders.synthetic.sources.draft import Draft, Layout, Truth
from data_builders.synthetic.sources.rendered_takes import RenderedTake
from data_builders.synthetic.sources.wording import other_things, thing, told
from data_builders.synthetic.world import Event

FRAME_RATE = 24
WINDOW_EVENTS = 5
SPLITS = ("test", "val", "train")
UNKNOWN_WORDS = ("<UNK0>", "<UNK1>")
"""The official answer set begins with these."""


@dataclass(frozen=True)
class _Asked:
    """A question about a window of events, with EgoTaskQA's tags."""

    question: str
    answer: str
    program: str
    kind: str
    semantic: str
    events: tuple[int, ...]
    """Places within the window."""
    reference: str = "direct"

    @property
    def structural(self) -> str:
        return "verify" if self.answer in ("yes", "no") else "query"


def _write(draft: Draft) -> None:
    windows = [
        (take, first)
        for take in draft.takes
        for first in range(0, max(1, len(take.events) - WINDOW_EVENTS + 1), WINDOW_EVENTS - 1)
    ]
    rows: list[dict[str, Any]] = []
    for number, (take, first) in enumerate(windows):
        events = take.events[first : first + WINDOW_EVENTS]
        start, end = (round(second * FRAME_RATE) for second in (events[0].start_s, events[-1].end_s))
        interval = f"task{1 + take.number}_{take.uid[:8]}|P1|{start}|{end}"
        rows += [_row(asked, interval, number, take, first) for asked in _questions(events, draft)]
    draft.chance.shuffle(rows)
    for number, row in enumerate(rows):
        row["question_id"] = number
        if number % 25 == 7:
            row["sturctural"] = row.pop("structural")
            draft.set_trap("sturctural")
    wanted = max(1, min(draft.rows, len(rows) // 2))
    rest = len(rows) - wanted
    direct = {"test": rows[:wanted], "val": rows[wanted : wanted + rest // 4], "train": rows[wanted + rest // 4 :]}
    indirect = [row for row in rows if row["reference"] == "indirect"]
    wanted = max(1, min(draft.rows, (1 + len(indirect)) // 2))
    others = [row for row in rows if row["reference"] == "direct"]
    for protocol, files in (
        ("direct", direct),
        ("indirect", {"test": indirect[:wanted], "val": indirect[wanted : 2 * wanted], "train": others}),
    ):
        _write_protocol(draft, protocol, files)
    for row in (*direct["test"], *indirect):
        _cut(draft, row)


def _row(asked: _Asked, interval: str, number: int, take: RenderedTake, first: int) -> dict[str, Any]:
    tags = [asked.kind, "world", asked.semantic, asked.structural, asked.reference]
    return {
        "question": asked.question,
        "answer": asked.answer,
        "program": asked.program,
        "type": [asked.kind],
        "category": ["world"],
        "semantic": asked.semantic,
        "structural": asked.structural,
        "reference": asked.reference,
        "interval": interval,
        "video_id": number,
        "question_id": -1,
        "reasoning_type": "$".join(tags),
        "_take": take,
        "_events": tuple(first + place for place in asked.events),
    }


def _write_protocol(draft: Draft, protocol: str, files: dict[str, list[dict[str, Any]]]) -> None:
    for split in SPLITS:
        public = [{key: value for key, value in row.items() if not key.startswith("_")} for row in files[split]]
        draft.json(f"qa/{protocol}/{split}_qas.json", public)
    counts = Counter(row["answer"] for row in files["train"])
    draft.set_trap("unknown_words_in_the_answer_set")
    draft.text(f"qa/{protocol}/answer_set.txt", "\n".join((*UNKNOWN_WORDS, *dict(counts.most_common()))) + "\n")
    for row in files["test"]:
        draft.truths.append(
            Truth(
                table=f"egotaskqa_{protocol}",
                key=str(row["question_id"]),
                video=_video(row),
                start_s=None,
                end_s=None,
                question=row["question"],
                answer=row["answer"],
                take_uid=row["_take"].uid,
                offset_s=int(row["interval"].split("|")[2]) / FRAME_RATE,
                events=row["_events"],
                trap="sturctural" if "sturctural" in row else "",
            )
        )


def _video(row: dict[str, Any]) -> str:
    return f"qa_videos/{row['interval']}.mp4"


def _cut(draft: Draft, row: dict[str, Any]) -> None:
    if not draft.path(_video(row)).exists():
        start, end = (int(frame) / FRAME_RATE for frame in row["interval"].split("|")[2:])
        draft.cut(row["_take"], _video(row), start, end, FRAME_RATE)


def _questions(events: Sequence[Event], draft: Draft) -> Iterator[_Asked]:
    """Yields questions that have one answer within the window."""
    said = [told(event, "base") for event in events]
    for index, event in enumerate(events):
        if said.count(said[index]) > 1:
            continue
        did = told(event, "past")
        if index + 1 < len(events):
            question = f"What is the action that the person does right after the person {did}?"
            program = f"query([action], after([action@{said[index]}]))"
            yield _Asked(question, said[index + 1], program, "descriptive", "action", (index, index + 1))
            answer = draft.chance.choice(("yes", "no"))
            earlier, later = (index, index + 1) if answer == "yes" else (index + 1, index)
            if said.count(said[index + 1]) == 1:
                question = (
                    f"Did the person {said[earlier]} before the person {told(events[later], 'past')} in the video?"
                )
                program = f"verify(before([action@{said[earlier]}], [action@{said[later]}]))"
                yield _Asked(question, answer, program, "descriptive", "action", (index, index + 1))
        put_down = [place for place, one in enumerate(events) if one.verb == "put down" and one.shape == event.shape]
        if event.verb == "pick up" and put_down and put_down[0] > index:
            question = f"If the person did not {said[index]}, will the person be able to {said[put_down[0]]}?"
            program = (
                f"query([executable], only(filter([action@{said[put_down[0]]}], counterfactual([{said[index]}]))))"
            )
            yield _Asked(question, "no", program, "counterfactual", "action", (index, put_down[0]))
    yield from _states(events)
    yield from _indirect(events, draft)


def _states(events: Sequence[Event]) -> Iterator[_Asked]:
    for shape in sorted({event.shape for event in events if event.verb in ("open", "close")}):
        last = max(place for place, one in enumerate(events) if one.shape == shape and one.verb in ("open", "close"))
        question = f"What is the status of the {thing(events[last])} at the end of the video?"
        answer = "open" if events[last].verb == "open" else "closed"
        yield _Asked(question, answer, f"query([openness], [object@{shape}])", "predictive", "state", (last,))


def _indirect(events: Sequence[Event], draft: Draft) -> Iterator[_Asked]:
    """Yields questions that name an object by what happens to it."""
    first, last = events[0], events[-1]
    program = "query([object], first([action]))"
    yield _Asked(
        "Which object does the person handle first in the video?",
        thing(first),
        program,
        "descriptive",
        "object",
        (0,),
        "indirect",
    )
    yield _Asked(
        "Which hand does the person use in the last action of the video?",
        f"{last.hand} hand",
        "query([hand], last([action]))",
        "explanatory",
        "object",
        (len(events) - 1,),
        "indirect",
    )
    is_true = draft.chance.random() < 0.5
    colour = first.colour if is_true else other_things(thing(first), draft.chance, 1)[0].split()[0]
    yield _Asked(
        f"Is the object that the person handles first {colour}?",
        "yes" if colour == first.colour else "no",
        f"verify([colour@{colour}], first([action]))",
        "descriptive",
        "object",
        (0,),
        "indirect",
    )


LAYOUT = Layout("egotaskqa", "val", _write)
