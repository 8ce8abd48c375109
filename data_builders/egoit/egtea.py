"""EGTEA Gaze+ as EgoIT conversations: which action is performed in a clip of a cooking session.

Source: EGTEA Gaze+ (cbs.ic.gatech.edu/fpv), 28 hours of 86 cooking sessions by 32 people. Licence: none in the files;
the site offers them for research. Version: `action_annotation` of March 6th, 2018.

Two readings: `raw` (default) takes every annotated action, 15,484, out of the full session videos; it fits the 15K of
Exo2Ego Table 1. `splits` takes the 10,321 trimmed clips of the official splits (the train and test files of split 1,
which together are all clips; the three splits divide the same ones).

Traps: a clip's frame numbers count 24 per second and include padding of about a tenth of its length, so trimmed clips
are shown whole and session videos are cut at the annotated milliseconds; `action_idx.txt` counts actions from 1,
`cls_label_index.csv` the same ones from 0; names hold `_`, `,`, `/` and spaces; 60 rows name an unknown object, one of
them as `unkown`; in 6 rows the verb and nouns are not those of the action.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from data_builders.egoit.conversations import ConversationMaker
from data_builders.media import MediaFolder
from data_builders.paper_counts import PaperCount
from data_builders.source import Account, EgoITOptions, Source, Tables, run_source
from exo2ego.errors import DataError
from exo2ego.raw.files import RawFiles
from exo2ego.raw.rows import FileStem, RawRow, Text
from exo2ego.records import Conversation

DATASET = "EGTEA Gaze+"
QUESTION = "What action am I performing?"
"""Not in the source and not stated in the paper; worded as the question of its Figure 3."""
KIND = "action_recognition"
SESSION_LAYOUTS = ("{session}.mp4", "videos/{session}.mp4", "raw_videos/{session}.mp4", "{session}/{session}.mp4")
CLIP_LAYOUTS = (
    "cropped_clips/{session}/{clip}.mp4",
    "cropped_clips/cropped_clips/{session}/{clip}.mp4",  # where the archive was unpacked into a folder of its name
    "videos/cropped_clips/{session}/{clip}.mp4",
    "{session}/{clip}.mp4",
    "{clip}.mp4",
)
ZERO_BASED = tuple(
    f"{folder}cls_label_index.csv" for folder in ("action_annotation/raw_annotations/", "raw_annotations/", "")
)
ONE_BASED = ("action_annotation/action_idx.txt", "action_idx.txt")
_SPLIT_LINE = re.compile(
    r"(?P<clip>(?P<session>\w{1,50}-\w{1,50}-\w{1,50})-\d{1,9}-\d{1,9}-F\d{1,9}-F\d{1,9})"
    r"\s+(?P<action>\d{1,4})\s+(?P<verb>\d{1,4})(?P<nouns>(?:\s+\d{1,4}){1,3})",
    re.ASCII,
)
_INDEX_LINE = re.compile(r"(?P<label>[ -~]{1,200}?)\s+(?P<id>\d{1,4})", re.ASCII)
_MISSPELT = re.compile(r"\bunkown\b")
_UNKNOWN = re.compile(r"\bunknown", re.IGNORECASE)


class EgteaOptions(EgoITOptions):
    """Options of `python -m data_builders.egoit.egtea`."""

    mode: Literal["raw", "splits"] = "raw"
    """raw: every annotated action, cut out of the full session videos; splits: the trimmed clips of the splits."""


Milliseconds = Annotated[int, Field(ge=0)]


class ActionRow(RawRow):
    """A line of `action_labels.csv`."""

    clip: FileStem = Field(validation_alias="Clip Prefix (Unique)")
    """`<session>-<start ms>-<end ms>`."""
    session: FileStem = Field(validation_alias="Video Session")
    start_ms: Milliseconds = Field(validation_alias="Starting Time (ms)")
    end_ms: Milliseconds = Field(validation_alias="Ending Time (ms)")
    action: Text = Field(validation_alias="Action Label")
    verb: Text = Field(validation_alias="Verb Label")
    nouns: Text = Field(validation_alias="Noun Label(s)")


class ClassRow(RawRow):
    """A line of `cls_label_index.csv`."""

    action_id: int = Field(validation_alias="# Action ID", ge=0)
    """0-based."""
    action: Text = Field(validation_alias="Action Label")


def action_text(label: str) -> str:
    """Returns an action as it is answered: `Transfer rice, pot, plate`."""
    return ", ".join(_MISSPELT.sub("unknown", label).replace("_", " ").split(","))


def read(options: EgteaOptions, account: Account) -> Tables[Conversation]:
    """Reads the actions in the order of the file (raw) or of the splits."""
    files = RawFiles(options.root, DATASET)
    maker = ConversationMaker("egtea", options, account)
    rows = _raw_rows if options.mode == "raw" else _split_rows

    def conversations() -> Iterator[Conversation]:
        yield from rows(files, options, account, maker)
        account.inputs = {**files.hashes(), **maker.inputs()}

    return {"egtea": conversations()}


def _places(*names: str) -> list[str]:
    return [f"{folder}{name}" for name in names for folder in ("action_annotation/", "")]


def _raw_rows(
    files: RawFiles, options: EgteaOptions, account: Account, maker: ConversationMaker
) -> Iterator[Conversation]:
    path = files.find(*_places("raw_annotations/action_labels.csv", "action_labels.csv"), what="action_labels.csv")
    media = MediaFolder(options, SESSION_LAYOUTS, account)
    classes = set(_classes(files).values()) if files.has(*ZERO_BASED, *ONE_BASED) else set()
    of_classes = 0
    for where, row in files.csv_rows(path, ActionRow, "action labels", delimiter=";", quoting=False):
        if row.clip != f"{row.session}-{row.start_ms}-{row.end_ms}":
            raise DataError(f"{where}: clip {row.clip!a} is not named for its session and times; is it this file?")
        conversation_id = maker.new_id(row.clip, where)
        of_classes += row.action in classes
        span = row.start_ms / 1000, row.end_ms / 1000
        video = media.find(where, session=row.session) if maker.can_show(span, where) else None
        if video is None:
            continue
        if row.action != f"{row.verb} {row.nouns}":
            account.note("verb_and_nouns_disagree_with_action", where)
        if _UNKNOWN.search(action_text(row.action)):
            account.note("unknown_object", where)
        yield maker.make(where, conversation_id, video, QUESTION, action_text(row.action), KIND, span)
    if classes:
        account.facts[f"rows_of_the_{len(classes)}_classes"] = of_classes


def _split_rows(
    files: RawFiles, options: EgteaOptions, account: Account, maker: ConversationMaker
) -> Iterator[Conversation]:
    paths = [files.find(*_places(f"{part}_split1.txt"), what=f"{part}_split1.txt") for part in ("train", "test")]
    media = MediaFolder(options, CLIP_LAYOUTS, account)
    actions = _classes(files)
    verbs, nouns = (_index(files, *_places(name), what=name) for name in ("verb_idx.txt", "noun_idx.txt"))
    for where, line in (numbered for path in paths for numbered in files.lines(path, "split")):
        if not line.strip():
            continue
        found = _SPLIT_LINE.fullmatch(line.strip())
        if found is None:
            raise DataError(f"{where}: expected a clip, an action, a verb and one to three nouns, got {line[:80]!a}")
        action = _named(actions, found["action"], "action", where)
        verb = _named(verbs, found["verb"], "verb", where)
        parts = ",".join(_named(nouns, noun, "noun", where) for noun in found["nouns"].split())
        conversation_id = maker.new_id(found["clip"], where)
        video = media.find(where, session=found["session"], clip=found["clip"])
        if video is None:
            continue
        if action != f"{verb} {parts}":
            account.note("verb_and_nouns_disagree_with_action", where)
        yield maker.make(where, conversation_id, video, QUESTION, action_text(action), KIND)


def _named(table: Mapping[int, str], number: str, what: str, where: str) -> str:
    if int(number) not in table:
        raise DataError(f"{where}: there is no {what} {number}; expected 1 to {len(table)}")
    return table[int(number)]


def _classes(files: RawFiles) -> dict[int, str]:
    """Returns the actions by their 1-based id, from whichever of the two tables is there; both must agree."""
    if not files.has(*ZERO_BASED):
        return _index(files, *ONE_BASED, what="action_idx.txt")
    path = files.find(*ZERO_BASED, what="cls_label_index.csv")
    rows = list(files.csv_rows(path, ClassRow, "action classes", delimiter=";", quoting=False))
    classes = {row.action_id + 1: row.action for _, row in rows}
    if len(classes) != len(rows):
        raise DataError(f"{path}: an action id is given twice")
    if files.has(*ONE_BASED) and _index(files, *ONE_BASED, what="action_idx.txt") != classes:
        raise DataError(
            f"{path}: its actions, counted from 0, are not those of action_idx.txt, counted from 1: are the files of "
            "one download?"
        )
    return classes


def _index(files: RawFiles, *names: str, what: str) -> dict[int, str]:
    """Returns the names of a file with lines such as `Cut tomato 4` by their number."""
    path = files.find(*names, what=what)
    index: dict[int, str] = {}
    for where, line in files.lines(path, what):
        if not line.strip():
            continue
        found = _INDEX_LINE.fullmatch(line.strip())
        if found is None or int(found["id"]) in index:
            raise DataError(f"{where}: {what}: expected a name and its own number, got {line.strip()[:80]!a}")
        index[int(found["id"])] = found["label"]
    return index


SOURCE = Source(
    name="egtea",
    kind="egoit",
    options=EgteaOptions,
    read=read,
    tables=("egtea",),
    paper={
        "egtea": PaperCount(
            15_000,
            "Table 1",
            rounded_to=1000,
            reason="15K fits the 15,484 annotated actions of mode raw; the splits have 10,321 clips",
        )
    },
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_source(SOURCE, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
