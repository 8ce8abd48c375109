"""Damaged files of EgoClip, of VideoLLaMA2's data and of conversations to export: a whole output, or a message."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from data_builders import videollama2_conversations
from data_builders.egoclip.build import EgoClipOptions
from data_builders.egoclip.build import build as build_egoclip
from data_builders.egoit.export import ExportOptions, export
from data_builders.source import build_source
from exo2ego.data.clips import read_clips
from exo2ego.errors import Exo2EgoError
from exo2ego.records import Conversation
from exo2ego.storage import read_json, write_jsonl
from tests.data_builders.fuzz_readers import mutate, mutate_value
from tests.data_builders.raw_egoclip import write_egoclip
from tests.data_builders.raw_videollama2_conversations import write_videollama2_conversations

INPUTS = int(os.environ.get("EXO2EGO_FUZZ_INPUTS", "100"))
"""More are tried by hand."""


def egoclip(root: Path, out: Path) -> None:
    build_egoclip(EgoClipOptions(root=root, out=out, max_bad_share=1))
    for clip in read_clips(out / "clips.arrow"):
        assert ".." not in clip.ego_video.split("/")


def videollama2(root: Path, out: Path) -> None:
    options = videollama2_conversations.VideoLLaMA2Options(root=root, out=out, malformed="drop")
    build_source(videollama2_conversations.SOURCE, options)


def exported(root: Path, out: Path) -> None:
    export(ExportOptions(conversations=root / "table.jsonl", form="videochat2", out=out / "out.json", spans="keys"))
    assert read_json(out / "out.json")


def write_table(root: Path) -> None:
    rows = [
        Conversation(id=f"a/{number}", source="egtea", video=f"{number}.mp4", start=number, question="Q?", answer="A")
        for number in range(4)
    ]
    root.mkdir()
    write_jsonl(root / "table.jsonl", (row.to_row() for row in rows))


def write_pair(root: Path) -> None:
    root.mkdir()
    write_videollama2_conversations(root)


CASES: dict[str, tuple[Callable[[Path], None], Callable[[Path, Path], None]]] = {
    "egoclip": (write_egoclip, egoclip),
    "videollama2": (write_pair, videollama2),
    "export": (write_table, exported),
}


@pytest.mark.parametrize("case", CASES)
def test_damage_is_a_message_or_a_whole_output(tmp_path: Path, case: str) -> None:
    write, build = CASES[case]
    root, out = tmp_path / "raw", tmp_path / "out"
    write(root)
    (path,) = root.iterdir()
    whole = path.read_bytes()
    counts: Counter[str] = Counter()
    longest = 0
    for number in range(INPUTS):
        chance = random.Random(f"{case}/{number}")
        path.write_bytes((mutate if chance.random() < 0.5 else mutate_value)(whole, chance))
        for left in out.glob("*"):
            left.unlink()
        try:
            build(root, out)
            counts["built"] += 1
        except Exo2EgoError as error:
            counts["refused"] += 1
            longest = max(longest, len(str(error)))
            assert list(out.glob("*")) == [], f"input {number}: refused, but something is left"
    assert longest < 3000
    assert min(counts["built"], counts["refused"]) > INPUTS / 20
