"""Overlap of training and benchmark: by recording, by moment, by text; templates do not flood it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from exo2ego.records import Record
from scripts.contamination import Item, find_overlaps, item_of, recording_of
from tests.record_examples import clip, conversation, prediction, question

UID = "001e3e4e-2743-47fc-8564-d5efd11f9e90"
OTHER = "93231c7e-1cf4-4a20-b1f8-9cc9428915b2"
CAPTION = "C picks a bag of clothes from the floor"


@pytest.mark.parametrize(
    ("video", "recording", "part"),
    [
        (f"v1/full_scale/{UID}.mp4", UID, ""),
        (f"v1/full_scale/{UID.upper()}.mp4", UID, ""),
        (f"ego4d/{UID}/3.mp4", UID, "3"),  # EgoVLP's chunks
        (f"ego4d/{UID}.mp4/600.mp4", UID, "600"),  # LaViLa's chunks
        ("EPIC-KITCHENS/P01/P01_13.MP4", "P01_13", ""),
        ("P01/rgb_frames/P01_13", "P01_13", ""),
        ("P01_13.MP4/15.MP4", "P01_13", "15"),
        ("takes/cmu_bike01_2/frame_aligned_videos/downscaled/448/aria01_214-1.mp4", "cmu_bike01_2", ""),
        ("ssv2/12345.webm", "ssv2/12345.webm", ""),  # every data set has a video 12345
        ("frames/002-scannet-scene0709_00", "002-scannet-scene0709_00", ""),
        ("v1.2_frames/a", "a", ""),
    ],
)
def test_recordings_are_told_from_paths(video: str, recording: str, part: str) -> None:
    assert recording_of(video) == (recording, part)


def overlaps(training: Sequence[Record], benchmark: Sequence[Record]) -> dict[str, Any]:
    return find_overlaps(items(training), items(benchmark))


def items(records: Sequence[Record]) -> list[Item]:
    return [item for record in records if (item := item_of(record)) is not None]


def asked(record_id: str, answer: str, **changes: Any) -> Record:
    values = {"options": ["nothing", answer], "answer_index": 1, "answer_text": answer, "meta": {}}
    return question(id=record_id, **(values | changes))


def trained(record_id: str, answer: str, **changes: Any) -> Record:
    return conversation(id=record_id, answer=answer, **changes)


def test_same_video_and_overlapping_spans_are_told_apart() -> None:
    training = [
        trained("t/1", "one", video=f"a/{UID}.mp4", start=10, end=20),
        trained("t/2", "two", video=f"a/{UID}.mp4", start=15, end=18),
        trained("t/3", "three", video=f"a/{UID}/2.mp4", start=0, end=600),
    ]
    benchmark = [
        asked("b/inside", "x", video=f"b/{UID}.mp4", start=16, end=30),
        asked("b/after", "y", video=f"b/{UID}.mp4", start=20, end=30),  # only touches
        asked("b/instant", "y", video=f"b/{UID}.mp4", start=20, end=20),
        asked("b/other", "z", video=f"b/{OTHER}.mp4", start=0, end=30),
        asked("b/chunk", "z", video=f"b/{UID}/1.mp4", start=0, end=30),
        asked("b/whole", "z", video=f"b/{UID}.mp4", start=None, end=None),
    ]
    found = overlaps(training, benchmark)
    assert found["affected"]["same_video"] == ["b/after", "b/chunk", "b/inside", "b/instant", "b/whole"]
    assert found["affected"]["overlapping_span"] == ["b/inside", "b/instant", "b/whole"]
    spans = {entry["benchmark_id"]: entry for entry in found["videos"]["overlapping_spans"]}
    assert (spans["b/inside"]["training_id"], spans["b/inside"]["shared_s"]) == ("t/1", 4.0)
    assert spans["b/inside"]["training_records"] == 2
    assert spans["b/whole"]["shared_s"] == 10.0
    assert found["videos"]["num_shared"] == 1
    assert found["videos"]["shared"][0]["training_records"] == 3
    assert found["videos"]["shared"][0]["benchmark_records"] == 5


def test_a_question_about_a_cut_clip_is_placed_in_its_recording() -> None:
    training = [trained("t/1", "one", video=f"{UID}.mp4", start=100, end=110)]
    meta = {"video_uid": UID, "recording_start_s": 90, "recording_end_s": 120}
    benchmark = [
        asked("b/known", "x", video=f"clips/{OTHER}.mp4", meta=meta),
        asked("b/elsewhere", "x", video=f"clips/{OTHER}.mp4", meta=meta | {"recording_start_s": 111}),
        asked("b/somewhere", "x", video=f"clips/{OTHER}.mp4", meta={"video_uid": UID}),
    ]
    found = overlaps(training, benchmark)
    assert found["affected"]["same_video"] == ["b/elsewhere", "b/known", "b/somewhere"]
    assert found["affected"]["overlapping_span"] == ["b/known"]


def test_texts_are_compared_across_types_and_forms() -> None:
    training: list[Record] = [
        clip(text=f"{CAPTION}.", ego_video=f"{UID}.mp4"),
        trained("t/2", "(B)", question="What is done?", options=["nothing", "the man washes two cups"], video="other"),
    ]
    wrong = {"options": [CAPTION, CAPTION.replace("floor", "bed"), "C runs"], "answer_index": 1, "answer_text": None}
    benchmark = [
        asked("b/same", f"#{CAPTION.lower()}", question="", video=f"{UID}.mp4"),
        asked("b/near", CAPTION.replace("a bag", "one bag"), question="", video=f"{UID}.mp4"),
        asked("b/letter", "The man washes two cups.", question="What is done"),
        question(id="b/wrong_option", question="", **wrong, meta={}),
        asked("b/far", "C sings a song in the kitchen", question=""),
    ]
    found = overlaps(training, benchmark)
    assert found["affected"]["same_text"] == ["b/letter", "b/same"]
    assert found["affected"]["similar_text"] == ["b/near", "b/wrong_option"]
    assert found["affected"]["same_video_and_text"] == ["b/near", "b/same"]
    (entry,) = [entry for entry in found["texts"]["similar"] if entry["benchmark_ids"] == ["b/near"]]
    assert entry["training_ids"] == ["take/0/1"]
    assert entry["similarity"] == 0.8


def test_a_template_counts_once_and_only_its_answers_are_compared() -> None:
    template = "What action am I currently performing?"
    training = [
        trained(f"t/{number}", f"doing thing number {number} of all", question=template) for number in range(30)
    ]
    benchmark = [
        asked("b/same", "doing thing number 7 of all", question=template),
        asked("b/new", "quite another thing than those", question=template),
    ]
    found = overlaps(training, benchmark)
    assert found["affected"]["same_text"] == ["b/same"]
    assert found["affected"]["similar_text"] == []
    assert found["texts"]["shared_templates"] == [
        {"question": "what action am i currently performing", "training_records": 30, "benchmark_records": 2}
    ]


def test_one_text_of_many_records_is_one_entry_and_short_ones_are_only_counted() -> None:
    training = [trained(f"t/{number}", CAPTION, question="") for number in range(50)]
    training += [trained("t/short", "open drawer", question="")]
    benchmark = [asked(f"b/{number:02d}", CAPTION, question="") for number in range(40)]
    benchmark += [asked("b/short", "open drawer", question="")]
    found = overlaps(training, benchmark)
    (entry,) = found["texts"]["same"]
    assert (entry["training_records"], entry["benchmark_records"]) == (50, 40)
    assert len(entry["benchmark_ids"]) == 20
    assert len(found["affected"]["same_text"]) == 40
    assert found["texts"]["num_same_short"] == 1


def test_the_table_counts_questions_by_task() -> None:
    training = [trained("t/1", CAPTION, question="", video=f"{UID}.mp4")]
    benchmark = [
        asked("b/1", CAPTION, question="", video=f"{UID}.mp4", task="egomcq_inter"),
        asked("b/2", "x", video=f"{OTHER}.mp4", task="egomcq_inter"),
        asked("b/3", "x", video=f"{UID}.mp4", task="egomcq_intra"),
    ]
    inter, intra = overlaps(training, benchmark)["by_task"]
    assert inter == {
        "task": "egomcq_inter",
        "questions": 2,
        "same_video": 1,
        "overlapping_span": 1,
        "same_text": 1,
        "similar_text": 0,
        "same_video_and_text": 1,
    }
    assert (intra["questions"], intra["same_video"], intra["same_text"]) == (1, 1, 0)


def test_a_question_without_a_label_is_compared_by_its_question() -> None:
    text = "Why does the camera wearer return to the sink so often"
    benchmark = [question(question=text, answer_index=None, answer_text=None, meta={})]
    found = overlaps([trained("t/1", "", question=text)], benchmark)
    assert found["texts"]["num_same"] == 1


def test_predictions_have_nothing_to_compare() -> None:
    assert item_of(prediction()) is None
