"""Instruction conversations from training narrations."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from data_builders.narration_instructions import INSTRUCTIONS, KINDS, conversation, hand_of
from data_builders.narration_pool import NarrationPool
from exo2ego.data.prompting import LETTER_REQUEST
from exo2ego.records import Conversation
from exo2ego.storage import read_json, read_jsonl
from tests.conftest import RunPython
from tests.data_builders.narrated_clips import make_clip, narrated_clips, write_clips

MODULE = "data_builders.narration_instructions"


@pytest.fixture(scope="module")
def pool() -> NarrationPool:
    return NarrationPool(narrated_clips())


@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_is_true(pool: NarrationPool, kind: str) -> None:
    for index in pool.askable[:40]:
        made = conversation(pool, index, [kind], seed=0)
        clip = pool.clips[index]
        assert made is not None
        assert (made.kind, made.video, made.start_s, made.end_s) == (kind, clip.ego_video, clip.start_s, clip.end_s)
        assert made.instruction.startswith(INSTRUCTIONS)
        answers = {
            "caption": clip.text,
            "choice_text": clip.text,
            "choice_letter": "ABCDE"[made.options.index(clip.text)] if made.options else "",
            "hand": "left hand" if "left" in clip.text else "right hand",
        }
        assert made.answer == answers[kind]
        assert len(set(made.options)) == (5 if kind.startswith("choice") else 0)
        assert (LETTER_REQUEST in made.instruction) == (kind == "choice_letter")


def test_letters_are_balanced() -> None:
    pool = NarrationPool(narrated_clips(num_takes=60))
    letters = Counter(
        made.answer for index in pool.askable if (made := conversation(pool, index, ["choice_letter"], 0))
    )
    shares = [letters[letter] / letters.total() for letter in "ABCDE"]
    assert shares == pytest.approx([0.2] * 5, abs=0.05)


@pytest.mark.parametrize(
    ("narration", "hand"),
    [
        ("C opens the jar with her left hand.", "left hand"),
        ("C lifts it with BOTH hands", "both hands"),
        ("C moves the pan to the right.", None),
        ("C passes the cup from the left hand to the right hand", None),
    ],
)
def test_hands_are_read_only_where_named_once(narration: str, hand: str | None) -> None:
    assert hand_of(narration) == hand


def test_a_clip_without_wrong_options_gives_another_kind() -> None:
    pool = NarrationPool([make_clip(0, "C opens the jar", time_s=1)])
    made = conversation(pool, 0, ["choice_letter", "hand", "caption"], seed=0)
    assert made is not None
    assert made.kind == "caption"
    assert conversation(pool, 0, ["choice_letter", "hand"], seed=0) is None


def test_the_command_writes_conversations_and_counts(tmp_path: Path, run_python: RunPython) -> None:
    table = write_clips(tmp_path / "clips.parquet", narrated_clips())
    out = tmp_path / "conversations.jsonl"
    done = run_python("-m", MODULE, "--clips", table, "--out", out, "--max-conversations", 100)
    assert done.returncode == 0, done.stderr
    made = [Conversation.model_validate(row) for row in read_jsonl(out)]
    assert len(made) == len({one.conversation_id for one in made}) == 100
    summary = read_json(tmp_path / "conversations.summary.json")
    assert summary["kinds"] == Counter(one.kind for one in made)
    assert set(summary["kinds"]) == set(KINDS)
    again = tmp_path / "again.jsonl"
    run_python("-m", MODULE, "--clips", table, "--out", again, "--max-conversations", 100)
    assert again.read_bytes() == out.read_bytes()


def test_nothing_to_say_is_one_message(tmp_path: Path, run_python: RunPython) -> None:
    table = write_clips(tmp_path / "clips.parquet", [make_clip(0, "C opens the jar")])
    done = run_python("-m", MODULE, "--clips", table, "--out", tmp_path / "c.jsonl", "--kinds", "hand")
    assert done.returncode == 3
    assert "no conversation of the kinds hand" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips.parquet"]
