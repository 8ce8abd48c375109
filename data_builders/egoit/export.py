"""Write EgoIT conversations in the forms that VideoLLaMA2 and VideoChat2 train on, so that their code can use them.

Neither loader fails on what it cannot do. VideoLLaMA2's reads no start and end and would show the whole video;
VideoChat2's replaces a row that it cannot read by a random other one; neither reads a folder of pictures as it is
meant. Where a conversation needs more than the form can say, the export stops until an option says what to do.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from data_builders.source import Account, print_summary
from exo2ego.command_line import run_flagged
from exo2ego.config import Config
from exo2ego.console import console
from exo2ego.data.prompting import user_turn
from exo2ego.errors import ConfigError, DataError
from exo2ego.provenance import provenance
from exo2ego.raw.files import RawFiles
from exo2ego.raw.rows import RelativePath
from exo2ego.records import Conversation
from exo2ego.storage import atomic_path, hash_file, remove_leftovers, write_json

Form = Literal["videollama2", "videochat2"]
VIDEOLLAMA2_TOKEN = "<video>"
_TOKENS = re.compile(r"</?(?:video|image)>", re.IGNORECASE)
_VIDEO_FILES = {".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".flv", ".mpg", ".mpeg", ".ts", ".wmv"}
_FOLDERS = {
    "videollama2": "VideoLLaMA2's loader takes every file in it, depth pictures and poses too, for a frame",
    "videochat2": "VideoChat2's loader cannot read it and would draw another row",
}
SHORTEST_S = 0.05
"""VideoChat2 takes int(seconds * frame rate) frames; with none it fails and draws another row (20 fps: 0.05 s)."""


class ExportOptions(Config):
    """Options of the export."""

    conversations: Path
    """EgoIT conversations (JSONL), as the builders write them."""
    form: Form
    """videollama2: {"id","video","conversations"}; videochat2: {"video","QA","start","end"}."""
    out: Path
    """JSON file to write; its summary lies beside it."""
    spans: Literal["stop", "keys", "whole", "drop"] = "stop"
    """Conversations about a part of a video that the form's loader cannot read alone (videollama2: any; videochat2:
    without an end, or shorter than 0.05 s): stop, write `start` and `end` for a loader of your own, let it train on
    the whole video, or leave them out."""
    folders: Literal["stop", "keep", "drop"] = "stop"
    """Conversations about a folder of pictures, which holds frames only: stop, keep (after depth pictures and poses
    were removed from the folders), or leave them out."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exports conversations from the command line; returns the exit code."""

    def act(options: ExportOptions) -> None:
        print_summary(export(options))
        console.print(f"written: {options.out}", markup=False)

    return run_flagged("data_builders.egoit.export", __doc__, ExportOptions, act, argv)


def export(options: ExportOptions) -> dict[str, Any]:
    """Writes the exported file and its summary, which is returned; raises `DataError` where the form cannot say it."""
    if options.out.resolve() == options.conversations.resolve():
        raise ConfigError(f"out: {options.out} is the file that is read; name another one")
    remove_leftovers(options.out.parent)
    account = Account()
    files = RawFiles(options.conversations.parent, "EgoIT")
    summary_path = options.out.with_suffix(f".{options.form}.summary.json")
    with contextlib.ExitStack() as stack:
        summary_temporary = stack.enter_context(atomic_path(summary_path))
        temporary = stack.enter_context(atomic_path(options.out))
        _write_list(temporary, _exported(options, files, account))
        rows = account.kept["export"]
        if not rows:
            raise DataError(f"{options.conversations}: no conversation to export; left out: {dict(account.dropped)}")
        summary: dict[str, Any] = {
            "form": options.form,
            "tables": {options.out.name: {"rows": rows, "sha256": hash_file(temporary)}},
            "paper": [],
            "dropped": dict(sorted(account.dropped.items())),
            "noted": dict(sorted(account.noted.items())),
            "examples": account.examples,
            "facts": {},
            "provenance": provenance(options.model_dump(mode="json"), inputs=files.hashes()),
        }
        write_json(summary_temporary, summary)
        summary_path.unlink(missing_ok=True)  # it tells of the file that now goes
    return summary


def _write_list(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    """Writes a JSON list one item per line, in ASCII, because the loaders open it in the encoding of their machine."""
    with path.open("w", encoding="ascii") as stream:
        stream.write("[")
        for number, row in enumerate(rows):
            stream.write(("," if number else "") + "\n" + json.dumps(row, allow_nan=False))
        stream.write("\n]\n")


def _exported(options: ExportOptions, files: RawFiles, account: Account) -> Iterator[dict[str, Any]]:
    path = files.find(options.conversations.name, what="the conversation table")
    path_type = TypeAdapter(RelativePath)
    form = videollama2_row if options.form == "videollama2" else videochat2_row
    for where, row in files.jsonl_rows(path, Conversation, "conversation table"):
        if _TOKENS.search("\n".join((row.instruction, row.question, *row.options, row.answer))):
            account.drop("text_holds_a_video_or_image_token", where)
            continue
        try:
            path_type.validate_python(row.video)
        except ValidationError as error:
            raise DataError(f"{where}: video: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error
        policy = _policy(options, where, row, account)
        if policy == "drop":
            continue
        account.kept["export"] += 1
        yield form(row, with_span=policy == "keys")


def _policy(
    options: ExportOptions, where: str, row: Conversation, account: Account
) -> Literal["keys", "whole", "drop"]:
    """Returns what becomes of a conversation and its span; raises `DataError` where an option has to say it first."""
    if PurePosixPath(row.video).suffix.lower() not in _VIDEO_FILES:
        if options.folders == "stop":
            raise DataError(
                f"{where}: {row.video} is a folder of pictures; {_FOLDERS[options.form]}; "
                "say what to do with --folders keep|drop"
            )
        if options.folders == "drop":
            account.drop("folder_of_pictures", where)
            return "drop"
        account.note("folder_of_pictures", where)
    fault = _unsayable_span(options.form, row)
    if not fault:
        return "keys"
    if options.spans == "stop":
        raise DataError(f"{where}: {fault}; say what to do with --spans keys|whole|drop")
    if options.spans == "drop":
        account.drop("part_of_a_video", where)
        return "drop"
    told = {"keys": "part_of_a_video_for_a_loader_of_your_own", "whole": "part_of_a_video_shown_whole"}
    account.note(told[options.spans], where)
    return options.spans


def _unsayable_span(form: Form, row: Conversation) -> str:
    """Returns why the form's loader cannot read the span of a conversation, empty where it can."""
    if row.start_s is None and row.end_s is None:
        return ""
    span = f"{row.start_s} to {row.end_s} s of {row.video}"
    if form == "videollama2":
        return f"it is about {span}; VideoLLaMA2's loader ignores start and end and would train on the whole video"
    if row.end_s is None:
        return f"it is about {span}; VideoChat2's loader ignores a start without an end"
    if row.end_s - (row.start_s or 0.0) < SHORTEST_S:
        return f"it is about {span}; VideoChat2's loader cannot read less than one frame and would draw another row"
    return ""


def videollama2_row(row: Conversation, *, with_span: bool) -> dict[str, Any]:
    """Returns a conversation as VideoLLaMA2 trains on it (README, train.py); its own loader ignores a span."""
    turn = user_turn(row.instruction, row.question, row.options)
    return {
        "id": row.conversation_id,
        "video": row.video,
        "conversations": [
            {"from": "human", "value": f"{VIDEOLLAMA2_TOKEN}\n{turn}"},
            {"from": "gpt", "value": row.answer},
        ],
        **(_span(row) if with_span else {}),
    }


def videochat2_row(row: Conversation, *, with_span: bool) -> dict[str, Any]:
    """Returns a conversation as VideoChat2 trains on it (dataset/it_dataset.py)."""
    asked = user_turn("", row.question, row.options)
    return {
        "video": row.video,
        "QA": [{"i": row.instruction.strip(), "q": asked, "a": row.answer}],
        **(_span(row) if with_span else {}),
    }


def _span(row: Conversation) -> dict[str, float]:
    if row.start_s is None and row.end_s is None:
        return {}
    return {"start": row.start_s or 0.0, **({} if row.end_s is None else {"end": row.end_s})}


if __name__ == "__main__":
    sys.exit(main())
