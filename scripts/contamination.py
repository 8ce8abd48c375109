"""Overlap between training and benchmark records: the same videos, the same moments of them, the same texts."""

from __future__ import annotations

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy

from eval.parsing import parse_choice
from exo2ego.records import Clip, Conversation, Question, Record
from scripts.similar_texts import similar_texts, words_of

UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v"})
TEMPLATE_MIN_RECORDS = 20
TEMPLATE_MIN_ANSWERS = 5
"""A question that this many records ask, with this many different answers, is a template: only its answers count."""
MIN_WORDS = 5
"""Shorter texts (action labels, "on the table") are shared by any two data sets; they are counted, not listed."""
UNKNOWN_PART = "?"
"""The part of a moment that lies somewhere in its recording."""
MAX_IDS = 20
"""Ids listed per text or video; the counts are of all."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A span of a recording, by the recording's own id."""

    recording: str
    part: str
    """The file of it whose clock the times follow (a chunk of an Ego4D video); empty: the recording's own clock."""
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Item:
    """What of a record is compared."""

    record_id: str
    group: str
    moments: tuple[Moment, ...]
    question: str
    answer: str
    """The narration of a clip, the answer, or the text of the true option; empty where the label is not public."""


def item_of(record: Record) -> Item | None:
    """Returns what of a record is compared; None for a prediction, which has no text of its own."""
    if isinstance(record, Clip):
        moment = _moment(record.ego_video, record.start_s, record.end_s)
        return Item(record.clip_id, "ego_exoclip", (moment,), "", record.text)
    if isinstance(record, Conversation):
        moment = _moment(record.video, record.start_s, record.end_s)
        chosen = parse_choice(record.answer, record.options).index if record.options else None
        answer = record.answer if chosen is None else record.options[chosen]
        return Item(record.conversation_id, record.source, (moment,), record.question, answer)
    if isinstance(record, Question):
        truth = record.answer_index
        answer = record.answer_text or "" if truth is None else record.options[truth]
        return Item(record.question_id, record.task, tuple(_moments(record)), record.question, answer)
    return None


def recording_of(video: str) -> tuple[str, str]:
    """Returns (id of the recording, file of it with a clock of its own) of a path to a video or a folder of frames.

    The id is a UUID in the path (Ego4D, EgoSchema), the take of an Ego-Exo4D path, the name of a folder that is named
    like a video (chunks), or else the name of the file without its suffix; the whole path where this is but a number,
    which another data set will have too.
    """
    path = PurePosixPath(video)
    folders, name = path.parts[:-1], path.stem if path.suffix.lower() in VIDEO_SUFFIXES else path.name
    if "takes" in folders[:-1]:
        return folders[folders.index("takes") + 1], ""
    if uuid := UUID.search(name):
        return uuid[0].lower(), ""
    for folder in reversed(folders):
        if uuid := UUID.search(folder):
            return uuid[0].lower(), name
        if PurePosixPath(folder).suffix.lower() in VIDEO_SUFFIXES:
            return PurePosixPath(folder).stem, name
    return (str(path) if name.isdecimal() else name), ""


def _moment(video: str, start_s: float | None, end_s: float | None) -> Moment:
    recording, part = recording_of(video)
    return Moment(recording, part, start_s or 0.0, float("inf") if end_s is None else end_s)


def _moments(question: Question) -> Iterator[Moment]:
    """Yields the moment in the question's own video, and in the recording that this was cut from where it is known."""
    own = _moment(question.video, question.start_s, question.end_s)
    yield own
    told = question.meta.get("video_uid")
    if isinstance(told, str) and told.lower() != own.recording:
        start_s, end_s = (question.meta.get(f"recording_{side}_s") for side in ("start", "end"))
        if isinstance(start_s, int | float) and isinstance(end_s, int | float):
            yield Moment(told.lower(), "", start_s, end_s)
        else:
            yield Moment(told.lower(), UNKNOWN_PART, 0.0, float("inf"))


def find_overlaps(training: Sequence[Item], benchmark: Sequence[Item]) -> dict[str, Any]:
    """Returns all overlaps with their counts, and the ids of every benchmark question that each kind concerns."""
    videos, by_video = _shared_videos(training, benchmark)
    texts, by_text = _shared_texts(training, benchmark)
    affected = {**by_video, **by_text}
    totals = Counter(item.group for item in benchmark)
    groups = {item.record_id: item.group for item in benchmark}
    counts = {kind: Counter(groups[record_id] for record_id in ids) for kind, ids in affected.items()}
    return {
        "training_records": len(training),
        "benchmark_records": len(benchmark),
        "by_task": [
            {"task": task, "questions": total, **{kind: found[task] for kind, found in counts.items()}}
            for task, total in sorted(totals.items())
        ],
        "videos": videos,
        "texts": texts,
        "affected": {kind: sorted(ids) for kind, ids in affected.items()},
    }


class _Moments:
    """The training moments of one recording that follow one clock."""

    def __init__(self, found: Sequence[tuple[Moment, Item]]) -> None:
        self._items = [item for _, item in found]
        self._starts_s = numpy.array([moment.start_s for moment, _ in found])
        self._ends_s = numpy.array([moment.end_s for moment, _ in found])

    def overlap(self, item: Item, moment: Moment) -> dict[str, Any] | None:
        """Returns which training record shares most seconds with a moment, and how many share any; None: none."""
        shared_s = numpy.minimum(self._ends_s, moment.end_s) - numpy.maximum(self._starts_s, moment.start_s)
        is_instant = (self._starts_s == self._ends_s) | (moment.start_s == moment.end_s)
        overlaps = (shared_s > 0) | ((shared_s == 0) & is_instant)  # neighbours only touch
        if not overlaps.any():
            return None
        best = int(numpy.where(overlaps, shared_s, -1.0).argmax())
        return {
            "benchmark_id": item.record_id,
            "recording": moment.recording,
            "shared_s": round(float(shared_s[best]), 3) if numpy.isfinite(shared_s[best]) else None,
            "training_id": self._items[best].record_id,
            "training_records": int(overlaps.sum()),
        }


def _shared_videos(training: Sequence[Item], benchmark: Sequence[Item]) -> tuple[dict[str, Any], dict[str, set[str]]]:
    wanted = {moment.recording for item in benchmark for moment in item.moments}
    trained: dict[str, list[tuple[Moment, Item]]] = defaultdict(list)
    for item in training:
        for moment in item.moments:
            if moment.recording in wanted:
                trained[moment.recording].append((moment, item))
    by_clock: dict[tuple[str, str], list[tuple[Moment, Item]]] = defaultdict(list)
    for found in trained.values():
        for moment, item in found:
            by_clock[moment.recording, moment.part].append((moment, item))
    clocks = {clock: _Moments(found) for clock, found in by_clock.items() if clock[1] != UNKNOWN_PART}
    shared: dict[str, list[Item]] = defaultdict(list)
    overlapping = []
    for item in benchmark:
        for moment in item.moments:
            if moment.recording in trained:
                shared[moment.recording].append(item)
            if moments := clocks.get((moment.recording, moment.part)):
                overlapping += [entry] if (entry := moments.overlap(item, moment)) else []
    report = {
        "num_shared": len(shared),
        "shared": [
            {
                "recording": recording,
                "training_records": len(trained[recording]),
                "training_sources": sorted({item.group for _, item in trained[recording]}),
                "benchmark_records": len(items),
                "benchmark_ids": [item.record_id for item in items[:MAX_IDS]],
            }
            for recording, items in sorted(shared.items())
        ],
        "overlapping_spans": overlapping,
    }
    return report, {
        "same_video": {item.record_id for items in shared.values() for item in items},
        "overlapping_span": {entry["benchmark_id"] for entry in overlapping},
    }


Words = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Match:
    """A benchmark text and the training text nearest to it."""

    asked: Words
    trained: Words
    similarity: float
    num_matches: int


def _shared_texts(training: Sequence[Item], benchmark: Sequence[Item]) -> tuple[dict[str, Any], dict[str, set[str]]]:
    templates = _templates(training) | _templates(benchmark)
    trained, asked = _by_words(training, templates), _by_words(benchmark, templates)
    exact = [_Match(words, words, 1.0, 1) for words in asked if words in trained]
    listed = [match for match in exact if len(match.asked) >= MIN_WORDS]
    known = [words for words in trained if len(words) >= MIN_WORDS]
    others = [words for words in asked if len(words) >= MIN_WORDS and words not in trained]
    near = [
        _Match(others[found.text], known[found.nearest], found.similarity, found.num_matches)
        for found in similar_texts(known, others)
    ]
    near.sort(key=lambda match: (-match.similarity, match.asked))
    report = {
        "min_words": MIN_WORDS,
        "num_same": len(listed),
        "num_similar": len(near),
        "num_same_short": len(exact) - len(listed),
        "same": [_entry(match, asked, trained) for match in listed],
        "similar": [_entry(match, asked, trained) for match in near],
        "shared_templates": _shared_templates(templates, training, benchmark),
    }
    of_same_video = {
        item.record_id
        for match in (*exact, *near)
        for recordings in ({moment.recording for item in trained[match.trained] for moment in item.moments},)
        for item in asked[match.asked]
        if any(moment.recording in recordings for moment in item.moments)
    }
    return report, {
        "same_text": {item.record_id for match in listed for item in asked[match.asked]},
        "similar_text": {item.record_id for match in near for item in asked[match.asked]},
        "same_video_and_text": of_same_video,
    }


def _templates(items: Sequence[Item]) -> set[Words]:
    """Returns the questions that are asked by design of many records, whatever the answer."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for item in items:
        if item.question:
            answers[item.question][item.answer] += 1
    by_words: dict[Words, Counter[str]] = defaultdict(Counter)
    for question, found in answers.items():
        by_words[tuple(words_of(question))] += found
    return {
        words
        for words, found in by_words.items()
        if found.total() >= TEMPLATE_MIN_RECORDS and len(found) >= TEMPLATE_MIN_ANSWERS
    }


def _by_words(items: Sequence[Item], templates: set[Words]) -> dict[Words, list[Item]]:
    """Groups items by the words that are compared: of question and answer, of the answer alone after a template."""
    grouped: dict[Words, list[Item]] = defaultdict(list)
    for item in items:
        question, answer = tuple(words_of(item.question)), tuple(words_of(item.answer))
        words = answer if question in templates else question + answer
        if words:
            grouped[tuple(map(sys.intern, words))].append(item)
    return grouped


def _entry(
    match: _Match, asked: Mapping[Words, Sequence[Item]], trained: Mapping[Words, Sequence[Item]]
) -> dict[str, Any]:
    ours, theirs = asked[match.asked], trained[match.trained]
    return {
        "benchmark_text": f"{ours[0].question} {ours[0].answer}".strip(),
        "training_text": f"{theirs[0].question} {theirs[0].answer}".strip(),
        "similarity": round(match.similarity, 4),
        "benchmark_records": len(ours),
        "benchmark_ids": [item.record_id for item in ours[:MAX_IDS]],
        "training_records": len(theirs),
        "training_ids": [item.record_id for item in theirs[:MAX_IDS]],
        "similar_training_texts": match.num_matches,
    }


def _shared_templates(
    templates: set[Words], training: Sequence[Item], benchmark: Sequence[Item]
) -> list[dict[str, Any]]:
    """Returns the templates that both sides ask, once each, with how many records of either do."""
    counts: list[Counter[Words]] = []
    for items in (training, benchmark):
        by_question = Counter(item.question for item in items)
        counted: Counter[Words] = Counter()
        for question, count in by_question.items():
            words = tuple(words_of(question))
            if words in templates:
                counted[words] += count
        counts.append(counted)
    trained, asked = counts
    return [
        {"question": " ".join(words), "training_records": trained[words], "benchmark_records": asked[words]}
        for words in sorted(trained.keys() & asked.keys())
    ]
