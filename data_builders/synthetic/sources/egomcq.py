"""EgoMCQ: `egomcq.json`, five clips of Ego4D videos per question, in chunks of at most 600 s: `<video uid>/<k>.mp4`."""

from __future__ import annotations

from typing import Any

from data_builders.synthetic.sources.draft import Draft, Layout, Truth
from data_builders.synthetic.sources.egoclip import clip_record, clip_text
from data_builders.synthetic.sources.rendered_takes import RenderedTake

NUM_CHOICES = 5
INTER, INTRA = 1, 2
Moment = tuple[RenderedTake, int]


def _write(draft: Draft) -> None:
    moments = draft.moments()
    texts = {(take.uid, index): clip_text(take.events[index]) for take, index in moments}
    entries: dict[str, Any] = {}
    for intra in (False, True):
        for moment in moments[: draft.rows]:
            choices = _choices(draft, moments, moment, texts, intra=intra)
            if choices is not None:
                entries[str(len(entries))] = _entry(draft, len(entries), moment, choices, texts, intra=intra)
    draft.json("egomcq.json", entries)


def _choices(
    draft: Draft, moments: list[Moment], moment: Moment, texts: dict[tuple[str, int], str], *, intra: bool
) -> list[Moment] | None:
    """Draws five moments of different texts, the query among them: of its video, or of others; None: too few."""
    take, index = moment
    pool = [other for other in moments if (other[0].uid == take.uid) == intra and other != moment]
    draft.chance.shuffle(pool)
    chosen = {texts[take.uid, index]: moment}
    for other, place in pool:
        chosen.setdefault(texts[other.uid, place], (other, place))
        if len(chosen) == NUM_CHOICES:
            ordered = list(chosen.values())
            draft.chance.shuffle(ordered)
            return ordered
    return None


def _entry(
    draft: Draft, number: int, moment: Moment, choices: list[Moment], texts: dict[tuple[str, int], str], *, intra: bool
) -> dict[str, Any]:
    take, index = moment
    kind, trap = (INTRA if intra else INTER), ""
    if number % 15 == 6:
        kind, trap = INTER + INTRA - kind, draft.set_trap("mislabelled_type")
    records = {}
    for place, (other, chosen) in enumerate(choices):
        records[str(place)] = clip_record(other, chosen, texts[other.uid, chosen])
        draft.link(other.ego_video, f"{other.uid}/0.mp4")
    event = take.events[index]
    wrong = tuple(texts[other.uid, place] for other, place in choices if (other, place) != moment)
    draft.truths.append(
        Truth(
            table="egomcq_intra" if intra else "egomcq_inter",
            key=str(number),
            video=f"{take.uid}/0.mp4",
            start_s=event.start_s,
            end_s=event.end_s,
            answer=texts[take.uid, index],
            wrong=wrong,
            take_uid=take.uid,
            events=(index,),
            trap=trap,
        )
    )
    answer = choices.index(moment)
    return {"answer": answer, "types": kind, "query": records[str(answer)], "choices": records}


LAYOUT = Layout("egomcq", "val", _write)
