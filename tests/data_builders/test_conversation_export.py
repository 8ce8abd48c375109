"""VideoLLaMA2's data read, and EgoIT written in the forms of VideoLLaMA2 and VideoChat2, there and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_builders import videollama2_conversations
from data_builders.egoit.export import ExportOptions, export, main, videochat2_row, videollama2_row
from data_builders.source import build_source
from data_builders.videollama2_conversations import SOURCE, VideoLLaMA2Options
from exo2ego.data.conversations import read_conversations
from exo2ego.data.prompting import user_turn
from exo2ego.errors import ConfigError, DataError
from exo2ego.records import Conversation
from exo2ego.storage import hash_file, write_jsonl
from tests.conftest import RunPython
from tests.data_builders.raw_videollama2_conversations import (
    MALFORMED,
    ROWS,
    turns,
    write_list,
    write_videollama2_conversations,
)

TABLE = "videollama2_conversations.jsonl"


def conversation(number: int = 0, **changes: Any) -> Conversation:
    values = {
        "id": f"egtea/{number}",
        "source": "egtea",
        "video": "a.mp4",
        "instruction": "Look closely.",
        "question": "What is done?",
        "answer": "Cut tomato",
        **changes,
    }
    return Conversation.model_validate(values)


def exported(tmp_path: Path, form: str, *rows: Conversation, **changes: Any) -> tuple[dict[str, Any], Any]:
    """Returns the summary and what the loaders of the forms do first: `json.load` of the whole file."""
    table = tmp_path / "conversations.jsonl"
    write_jsonl(table, (row.to_row() for row in rows))
    values = {"conversations": table, "form": form, "out": tmp_path / "exported.json", **changes}
    summary = export(ExportOptions.model_validate(values))
    return summary, json.loads((tmp_path / "exported.json").read_text(encoding="ascii"))


def read_back(tmp_path: Path, **changes: Any) -> tuple[dict[str, Any], list[Conversation]]:
    out = tmp_path / "read"
    summary = build_source(SOURCE, VideoLLaMA2Options.model_validate({"root": tmp_path, "out": out, **changes}))
    return summary, list(read_conversations(out / TABLE))


def test_answers_about_videos_are_read_and_the_rest_is_counted(tmp_path: Path) -> None:
    write_videollama2_conversations(tmp_path)
    summary, rows = read_back(tmp_path)
    name = "videollama2_conversations/valley_llavaimage"
    assert [(row.conversation_id, row.video, row.question, row.answer) for row in rows] == [
        (f"{name}/1/1", "valley/a.mp4", "What is shown?", "A dog.\nIt runs."),
        (f"{name}/2/1", "valley/b.mp4", "Who is it?", "A cook."),
        (f"{name}/2/2", "valley/b.mp4", "And then?", "He eats."),
        (f"{name}/8/1", "valley/h.mp4", "Hello.", "Hello."),
        (f"{name}/8/2", "valley/h.mp4", "What is it?", "A cat."),
    ]
    assert {(row.source, row.instruction, row.start_s, row.end_s) for row in rows} == {("videollama2", "", None, None)}
    assert summary["dropped"] == {"no_answer": 1, "picture": 3, "text_without_video": 1}
    assert summary["noted"] == {"earlier_turns_are_lost": 2, "missing_video": 4}
    assert "row 3" in summary["examples"]["picture"][0]
    assert summary["provenance"]["inputs"] == {"valley_llavaimage.json": hash_file(tmp_path / "valley_llavaimage.json")}


@pytest.mark.parametrize("fault", MALFORMED)
def test_malformed_turns_stop_the_build_or_are_left_out(tmp_path: Path, fault: str) -> None:
    row = {"id": 1, "video": "a.mp4", "conversations": MALFORMED[fault]}
    write_list(tmp_path / "valley_llavaimage.json", [ROWS[0], row])
    with pytest.raises(DataError, match=r"valley_llavaimage\.json: row 2: .*malformed=drop"):
        read_back(tmp_path)
    assert list((tmp_path / "read").glob("*")) == []
    summary, rows = read_back(tmp_path, malformed="drop")
    assert (len(rows), summary["dropped"]) == (1, {"malformed": 1})


def test_a_long_turn_of_a_row_that_is_left_out_anyway_stops_nothing(tmp_path: Path) -> None:
    long = turns("What?", "x" * 30_000)
    rows = [ROWS[0], {"conversations": long}, {"image": "a.jpg", "conversations": long}]
    write_list(tmp_path / "valley_llavaimage.json", rows)
    summary, kept = read_back(tmp_path)
    assert (len(kept), summary["dropped"]) == (1, {"picture": 1, "text_without_video": 1})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "is not valid JSON"),
        ('{"id": 1}', "is not valid JSON: line 1: expected '\\['"),
        ('[{"video": "a.mp4"}]', "row 1: conversations: Field required"),
        ('[{"video": "../a.mp4", "conversations": []}]', "row 1: video: .*is not a plain path"),
        ('[{"video": "a.mp4", "conversations": [{"from": "human"}]}]', r"row 1: conversations\.0\.value"),
        ("[]", "no row was kept"),
        (json.dumps([{"video": "a.mp4", "conversations": turns("<video>", "x" * 30_000)}]), "30,000 characters"),
        (json.dumps([{"video": "a.mp4", "start": 3, "end": 1, "conversations": turns("<video>", "a")}]), "0 <= start"),
    ],
)
def test_a_bad_file_is_a_message(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "valley_llavaimage.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_back(tmp_path)
    assert list((tmp_path / "read").glob("*")) == []


def test_files_are_found_or_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected valley_llavaimage\.json or videochatgpt_llavaimage_tune\.json"):
        read_back(tmp_path)
    for name in ("videochatgpt_llavaimage_tune.json", "valley_llavaimage.json", "own/mine.json", "x/mine.json"):
        write_list(tmp_path / name, ROWS[:1])
    _, both = read_back(tmp_path)
    assert [row.conversation_id.split("/")[1] for row in both] == ["valley_llavaimage", "videochatgpt_llavaimage_tune"]
    _, own = read_back(tmp_path, annotations=["own/mine.json"])
    assert [row.conversation_id for row in own] == ["videollama2_conversations/mine/1/1"]
    with pytest.raises(DataError, match="two files of one name"):
        read_back(tmp_path, annotations=["own/mine.json", "x/mine.json"])
    with pytest.raises(DataError, match=r"other\.json"):
        read_back(tmp_path, annotations=["other.json"])


def test_the_form_of_videollama2(tmp_path: Path) -> None:
    asked = conversation(options=["cut", "pour"], answer="B")
    caption = conversation(1, instruction="", question="", answer="C cuts.")
    summary, rows = exported(tmp_path, "videollama2", asked, caption)
    assert rows == [
        {
            "id": "egtea/0",
            "video": "a.mp4",
            "conversations": [
                {"from": "human", "value": "<video>\nLook closely.\nWhat is done?\nOptions:\n(A) cut\n(B) pour"},
                {"from": "gpt", "value": "B"},
            ],
        },
        {
            "id": "egtea/1",
            "video": "a.mp4",
            "conversations": [{"from": "human", "value": "<video>\n"}, {"from": "gpt", "value": "C cuts."}],
        },
    ]
    assert json.loads((tmp_path / "exported.videollama2.summary.json").read_text()) == summary
    assert summary["tables"] == {"exported.json": {"rows": 2, "sha256": hash_file(tmp_path / "exported.json")}}
    assert summary["provenance"]["inputs"] == {"conversations.jsonl": hash_file(tmp_path / "conversations.jsonl")}


def test_the_form_of_videochat2(tmp_path: Path) -> None:
    asked = conversation(start=2.5, end=4, options=["cut", "pour"], answer="B")
    caption = conversation(1, question="", answer="C cuts.", end=3)
    _, rows = exported(tmp_path, "videochat2", asked, caption, conversation(2))
    assert rows == [
        {
            "video": "a.mp4",
            "QA": [{"i": "Look closely.", "q": "What is done?\nOptions:\n(A) cut\n(B) pour", "a": "B"}],
            "start": 2.5,
            "end": 4.0,
        },
        {"video": "a.mp4", "QA": [{"i": "Look closely.", "q": "", "a": "C cuts."}], "start": 0.0, "end": 3.0},
        {"video": "a.mp4", "QA": [{"i": "Look closely.", "q": "What is done?", "a": "Cut tomato"}]},
    ]


@pytest.mark.parametrize(
    ("form", "span", "message"),
    [
        ("videollama2", {"start": 1, "end": 2}, "would train on the whole video"),
        ("videollama2", {"end": 2}, "would train on the whole video"),
        ("videochat2", {"start": 1}, "a start without an end"),
        ("videochat2", {"start": 1, "end": 1}, "less than one frame"),
    ],
)
def test_a_span_that_the_loader_cannot_read_needs_a_decision(
    tmp_path: Path, form: str, span: dict[str, float], message: str
) -> None:
    rows = (conversation(), conversation(1, **span))
    with pytest.raises(DataError, match=rf"line 2: .*{message}.*--spans keys\|whole\|drop"):
        exported(tmp_path, form, *rows)
    assert [path.name for path in tmp_path.iterdir()] == ["conversations.jsonl"]
    summary, (_, whole) = exported(tmp_path, form, *rows, spans="whole")
    assert summary["noted"] == {"part_of_a_video_shown_whole": 1}
    assert {"start", "end"} & set(whole) == set()
    summary, (_, keys) = exported(tmp_path, form, *rows, spans="keys")
    assert summary["noted"] == {"part_of_a_video_for_a_loader_of_your_own": 1}
    assert {name: keys[name] for name in ("start", "end") if name in keys} == {"start": 0.0, **span}
    summary, kept = exported(tmp_path, form, *rows, spans="drop")
    assert (len(kept), summary["dropped"]) == (1, {"part_of_a_video": 1})


@pytest.mark.parametrize("form", ["videollama2", "videochat2"])
def test_a_folder_of_pictures_needs_a_decision(tmp_path: Path, form: str) -> None:
    rows = (conversation(), conversation(1, video="hm3d-v0/000-hm3d-BFRyYbPCCPE"))
    with pytest.raises(DataError, match=r"line 2: .*is a folder of pictures.*--folders keep\|drop"):
        exported(tmp_path, form, *rows)
    summary, kept = exported(tmp_path, form, *rows, folders="keep")
    assert (len(kept), summary["noted"]) == (2, {"folder_of_pictures": 1})
    summary, kept = exported(tmp_path, form, *rows, folders="drop")
    assert (len(kept), summary["dropped"]) == (1, {"folder_of_pictures": 1})


def test_a_text_that_would_insert_a_video_is_left_out(tmp_path: Path) -> None:
    rows = [conversation(), conversation(1, question="What is <image>?"), conversation(2, options=["a", "</Video>"])]
    summary, kept = exported(tmp_path, "videollama2", *rows)
    assert (len(kept), summary["dropped"]) == (1, {"text_holds_a_video_or_image_token": 2})


def test_a_path_that_leaves_the_media_root_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1: video: .*is not a plain path"):
        exported(tmp_path, "videochat2", conversation(video="../a.mp4"))


def test_the_source_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is the file that is read"):
        exported(tmp_path, "videochat2", conversation(), out=tmp_path / "conversations.jsonl")


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=30)


@settings(max_examples=40)
@given(
    asked=st.tuples(TEXTS, TEXTS, st.lists(TEXTS.filter(str.strip), max_size=4)),
    answer=TEXTS.filter(str.strip),
    span=st.none() | st.tuples(st.floats(0, 100), st.floats(0, 100)),
)
def test_what_is_exported_reads_back(
    tmp_path_factory: pytest.TempPathFactory, asked: Any, answer: str, span: tuple[float, float] | None
) -> None:
    tmp_path = tmp_path_factory.mktemp("round")
    instruction, question, options = asked
    start_s, length_s = span if span is not None else (None, 0)
    row = conversation(
        instruction=instruction,
        question=question,
        options=options,
        answer=answer,
        start=start_s,
        end=None if start_s is None else start_s + length_s,
    )
    exported(tmp_path, "videollama2", row, spans="keys")
    _, (back,) = read_back(tmp_path, annotations=["exported.json"])
    assert back.question.split() == user_turn(instruction, question, options).split()
    assert back.answer.split() == answer.split()
    assert (back.video, back.start_s, back.end_s) == (row.video, row.start_s, row.end_s)


def test_both_forms_say_the_same(tmp_path: Path) -> None:
    row = conversation(options=["cut", "pour"])
    (asked, answered), qa = (
        videollama2_row(row, with_span=True)["conversations"],
        videochat2_row(row, with_span=True)["QA"][0],
    )
    assert asked["value"] == f"<video>\n{qa['i']}\n{qa['q']}"
    assert answered["value"] == qa["a"]


def test_the_commands_there_and_back(tmp_path: Path, run_python: RunPython) -> None:
    write_videollama2_conversations(tmp_path)
    out = tmp_path / "out"
    done = run_python("-m", "data_builders.videollama2_conversations", "--root", tmp_path, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "videollama2_conversations: 5 rows" in done.stdout
    again = tmp_path / "again" / "again.json"
    common = ("--conversations", out / TABLE, "--out", again)
    done = run_python("-m", "data_builders.egoit.export", *common, "--form", "videollama2")
    assert done.returncode == 0, done.stderr
    _, rows = read_back(again.parent, annotations=["again.json"])
    first = read_conversations(out / TABLE)
    assert [(row.video, row.question, row.answer) for row in rows] == [
        (row.video, row.question, row.answer) for row in first
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": "a"', "not valid JSON"),
        ('{"id": "a"}\n', "line 1"),
        (json.dumps({**conversation().to_row(), "surprise": 1}), "surprise"),
        ("", "no conversation to export"),
    ],
)
def test_a_bad_table_is_a_message(
    tmp_path: Path, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "conversations.jsonl"
    table.write_text(content, encoding="utf-8")
    out = tmp_path / "new" / "out.json"
    assert main(["--conversations", str(table), "--form", "videochat2", "--out", str(out)]) == 3
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_the_reader_as_a_command_reports_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert videollama2_conversations.main(["--root", str(tmp_path / "no"), "--out", str(tmp_path / "out")]) == 3
    assert "no such folder" in capsys.readouterr().err
