"""Shows records of any type as one HTML page: frames, texts, options, and the prompt with what carries the loss."""

from __future__ import annotations

import argparse
import base64
import hashlib
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exo2ego.command_line import run_safely
from exo2ego.console import console, track
from exo2ego.errors import ConfigError, DataError
from exo2ego.records import Question
from exo2ego.storage import write_text
from scripts.record_files import RecordFile, Row, open_records
from scripts.show_cards import GROUPS, Card, make_card
from scripts.show_frames import FrameStrips
from scripts.show_prompts import load_builder

TEMPLATE = Path(__file__).with_name("show.html.j2")
STYLE = Path(__file__).with_name("show.css")
SCRIPT = Path(__file__).with_name("show.js")


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and writes the page."""
    arguments = _parser().parse_args(argv)
    return run_safely(lambda: show(arguments), arguments.debug)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.show", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="clip table, conversations, questions or predictions")
    parser.add_argument("--out", type=Path, required=True, metavar="PAGE.html", help="the page to write")
    parser.add_argument("--media-root", type=Path, metavar="DIR", help="folder that the video paths are relative to")
    parser.add_argument("-n", type=int, default=50, metavar="N", help="records at most (default 50)")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--seed", type=int, default=0, help="of the random choice of records (default 0)")
    choice.add_argument("--first", action="store_true", help="the first records of the file, not a random choice")
    parser.add_argument("--only", nargs="+", default=[], metavar="key=value", help="only records with this value")
    parser.add_argument("--model", type=Path, metavar="DIR", help="run or exported model whose tokens to show")
    parser.add_argument("--questions", type=Path, nargs="+", default=[], metavar="FILE", help="of the predictions")
    parser.add_argument("--frames", type=int, default=4, metavar="N", help="frames per view (default 4)")
    parser.add_argument("--max-megabytes", type=float, default=20, metavar="MB", help="pictures in all (default 20)")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    return parser


def show(arguments: argparse.Namespace) -> int:
    """Chooses records, writes the page, and tells what is in it."""
    if arguments.n < 1 or arguments.frames < 1 or arguments.max_megabytes <= 0:
        raise ConfigError("-n, --frames and --max-megabytes must be positive")
    if arguments.media_root is not None and not arguments.media_root.is_dir():
        raise DataError(f"--media-root {arguments.media_root}: no such folder")
    records = open_records(arguments.file)
    if not len(records):
        raise DataError(f"{arguments.file}: is empty: there is nothing to show")
    places = chosen_places(records, arguments.n, arguments.only, None if arguments.first else arguments.seed)
    questions = _questions(arguments.questions, records)
    builder = load_builder(arguments.model)
    strips = FrameStrips(arguments.media_root, arguments.frames, int(arguments.max_megabytes * 1e6))
    cards = [make_card(records[place], strips, builder, questions) for place in track(places, "records")]
    page = render(records, cards, strips, "the first ones" if arguments.first else f"chosen by seed {arguments.seed}")
    write_text(arguments.out, page)
    console.print(f"{arguments.file}: {len(records):,} {records.kind}", markup=False)
    for line in told(cards, strips):
        console.print(line, markup=False)
    console.print(f"written: {arguments.out} ({len(page.encode()) / 1e6:.1f} MB)", markup=False)
    return 0


def chosen_places(records: RecordFile, count: int, only: Sequence[str], seed: int | None) -> list[int]:
    """Returns the places of at most `count` rows, in the order of the file: the first, or drawn by `seed`.

    Raises `ConfigError` for a condition that is not key=value or fits no row.
    """
    conditions = [condition.partition("=") for condition in only]
    if any(not separator for _, separator, _ in conditions):
        raise ConfigError(f"--only {' '.join(only)}: expected key=value, for example task=egoschema")
    fitting: Sequence[int] = range(len(records))
    if conditions:
        seen: dict[str, Counter[str]] = {key: Counter() for key, _, _ in conditions}
        fitting = [place for place in fitting if _fits(records.plain(place), conditions, seen)]
        if not fitting:
            there = "; ".join(f"{key}: {', '.join(list(values)[:8]) or 'no such key'}" for key, values in seen.items())
            raise ConfigError(f"--only {' '.join(only)}: no such row in {records.path}; it has {there}")
    if seed is None or len(fitting) <= count:
        return list(fitting[:count])
    return sorted(random.Random(seed).sample(fitting, count))


def _fits(row: Row, conditions: Sequence[tuple[str, str, str]], seen: dict[str, Counter[str]]) -> bool:
    values = row.raw if isinstance(row.raw, dict) else {}
    for key, _, _ in conditions:
        if key in values and len(seen[key]) < 1000:
            seen[key][str(values[key])] += 1
    return all(key in values and str(values[key]) == value for key, _, value in conditions)


def _questions(paths: Sequence[Path], records: RecordFile) -> dict[str, Question]:
    if paths and records.kind != "predictions":
        raise ConfigError(f"--questions goes with predictions; {records.path} holds {records.kind}")
    opened = [open_records(path) for path in paths]
    for found in opened:
        if found.kind not in ("questions", "records"):
            raise DataError(f"{found.path}: expected questions, it holds {found.kind}")
    rows = (row.record for found in opened for row in found)
    return {record.question_id: record for record in rows if isinstance(record, Question)}


def told(cards: Sequence[Card], strips: FrameStrips) -> list[str]:
    """Returns what the page holds, line by line."""
    num_faulty = sum(bool(card.faults) for card in cards)
    lines = [f"shown: {len(cards):,} records, {strips.num_shown:,} views, {strips.num_bytes / 1e6:.1f} MB of pictures"]
    lines += [f"records with a fault: {num_faulty:,}"] if num_faulty else []
    lines += [f"views without frames, {reason}: {count:,}" for reason, count in sorted(strips.failures.items())]
    return lines


def render(records: RecordFile, cards: Sequence[Card], strips: FrameStrips, choice: str) -> str:
    """Returns the page; its policy allows its own style and script, pictures inside it, and nothing else."""
    import jinja2

    style, script = STYLE.read_text(encoding="utf-8"), SCRIPT.read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    group_name, source_name = GROUPS[records.kind]
    filters = [
        _Filter("group", group_name, Counter(card.group for card in cards)),
        _Filter("source", source_name, Counter(card.source for card in cards)),
        _Filter("outcome", "outcome", Counter(card.outcome for card in cards)),
    ]
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
        style=style,
        script=script,
        title=records.path.name,
        kind=records.kind,
        total=len(records),
        choice=choice,
        cards=cards,
        filters=[entry for entry in filters if set(entry.values) != {""}],
        lines=told(cards, strips),
    )


@dataclass(frozen=True)
class _Filter:
    key: str
    name: str
    values: Counter[str]


def _hash(text: Any) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


if __name__ == "__main__":
    sys.exit(main())
