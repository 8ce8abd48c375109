"""Checks every record and every video of training or benchmark files, and what they share with other files.

Lists what is missing, unreadable, too short, malformed or duplicated; with --against, which questions of a benchmark
ask about videos, moments or texts that the checked files train on.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from exo2ego.command_line import run_safely
from exo2ego.console import console, track
from exo2ego.errors import ConfigError, DataError
from exo2ego.provenance import provenance
from exo2ego.storage import hash_file, write_json
from scripts.check_records import RECORD_FAULTS, RECORD_NOTES, Finding, RecordChecks, id_of
from scripts.check_videos import SPAN_FAULTS, check_videos, span_fault
from scripts.contamination import Item, find_overlaps, item_of
from scripts.record_files import RECORD_TYPES, RecordFile, open_records
from scripts.record_views import views_of

MAX_LISTED = 10_000
"""Findings of one kind that the report lists; the counts are of all."""
NUM_EXAMPLES = 3
OVERLAPS = {
    "same_video": "video",
    "overlapping_span": "span of it",
    "same_text": "text",
    "similar_text": "text, nearly",
    "same_video_and_text": "video and text",
}
"""What a question can share with the training records, and its column."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and checks."""
    arguments = _parser().parse_args(argv)
    return run_safely(lambda: check(arguments), arguments.debug)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.check_data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="clip table, conversations, questions, …")
    parser.add_argument("--media-root", type=Path, metavar="DIR", help="folder of the videos (default: not checked)")
    parser.add_argument("--workers", type=int, default=8, metavar="N", help="videos probed at a time (default 8)")
    parser.add_argument("--against", type=Path, nargs="+", default=[], metavar="FILE", help="benchmark files")
    parser.add_argument("--max-failure-rate", type=float, default=0.0, metavar="R", help="share of records (default 0)")
    parser.add_argument(
        "--out", type=Path, metavar="REPORT.json", help="everything found; videos are remembered beside"
    )
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    return parser


@dataclass
class _Checked:
    """What reading the files has brought together."""

    files: list[dict[str, Any]] = field(default_factory=list)
    findings: dict[str, list[Finding]] = field(default_factory=lambda: defaultdict(list))
    num_rows: int = 0
    faulty: set[tuple[str, int]] = field(default_factory=set)
    """(file, row) of the records with a fault; notes are none."""
    items: list[Item] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        """Notes a finding."""
        self.findings[finding.kind].append(finding)
        if finding.kind not in RECORD_NOTES:
            self.faulty.add((finding.file, finding.row))


def check(arguments: argparse.Namespace) -> int:
    """Checks, prints the report, writes it, and returns 3 when more is wrong than allowed."""
    if arguments.workers < 1 or not 0 <= arguments.max_failure_rate <= 1:
        raise ConfigError("--workers must be at least 1, --max-failure-rate from 0 to 1")
    if arguments.media_root is not None and not arguments.media_root.is_dir():
        raise DataError(f"--media-root {arguments.media_root}: no such folder")
    checked, checks = _Checked(), RecordChecks()
    opened = [open_records(path) for path in arguments.files]
    names: Counter[str] = Counter()
    for records in opened:
        names.update(_check_records(records, checks, checked, with_items=bool(arguments.against)))
    videos = _check_videos(arguments, opened, names, checked) if arguments.media_root is not None else None
    overlaps = find_overlaps(checked.items, _benchmark(arguments.against)) if arguments.against else None
    report = _report(arguments, checked, videos, overlaps)
    for line in told(report):
        console.print(Text(line) if isinstance(line, str) else line)
    if arguments.out is not None:
        write_json(arguments.out, report)
        console.print(f"written: {arguments.out}", markup=False)
    allowed = arguments.max_failure_rate * checked.num_rows
    return DataError.exit_code if len(checked.faulty) > allowed else 0


def _check_records(records: RecordFile, checks: RecordChecks, checked: _Checked, *, with_items: bool) -> Iterator[str]:
    """Checks all rows of a file; yields the videos that they name, once for each row."""
    num_faulty_before = len(checked.faulty)
    for row in track(records, records.path.name, total=len(records)):
        for finding in checks(str(records.path), row):
            checked.add(finding)
        if row.record is None:
            continue
        yield from dict.fromkeys(span.video for _, span in views_of(row.record))
        if with_items and (item := item_of(row.record)) is not None:
            checked.items.append(item)
    if not len(records):
        checked.add(Finding("empty_file", str(records.path), 0, "", "no record is in it"))
    checked.num_rows += len(records)
    checked.files.append(
        {
            "file": str(records.path),
            "records": records.kind,
            "rows": len(records),
            "rows_with_record_faults": len(checked.faulty) - num_faulty_before,
        }
    )


def _benchmark(paths: Sequence[Path]) -> list[Item]:
    items = []
    for path in paths:
        records = open_records(path)
        if records.kind == "predictions":
            raise DataError(f"{path}: holds predictions; --against takes {', '.join(list(RECORD_TYPES)[:3])}")
        found = (item_of(row.record) for row in track(records, path.name, total=len(records)) if row.record)
        items += [item for item in found if item is not None]
    return items


def _check_videos(
    arguments: argparse.Namespace, opened: Sequence[RecordFile], names: Mapping[str, int], checked: _Checked
) -> dict[str, Any]:
    """Probes the videos, then reads the files again to hold every span against them: so memory stays small."""
    cache = arguments.out.with_suffix(".videos.jsonl") if arguments.out is not None else None
    states = check_videos(arguments.media_root, names, num_workers=arguments.workers, cache=cache)
    for records in opened:
        for row in track(records, f"spans of {records.path.name}", total=len(records)):
            if row.record is None:
                continue
            for _, span in views_of(row.record):
                state = states[span.video]
                kind, detail = (state.fault, state.detail) if state.fault else span_fault(span, state) or ("", "")
                if kind:
                    where = (str(records.path), row.number, id_of(row.record))
                    checked.add(Finding(f"video:{kind}", *where, f"{span.video}: {detail}"))
    unreadable = [
        {"video": video, "reason": state.fault, "detail": state.detail, "records": names[video]}
        for video, state in sorted(states.items())
        if state.fault
    ]
    lengths_s = [state.duration_s for state in states.values() if state.duration_s is not None]
    return {
        "media_root": str(arguments.media_root.resolve()),
        "unique": len(states),
        "hours": round(sum(lengths_s) / 3600, 3),
        "folders_of_pictures": sum(state.num_pictures is not None for state in states.values()),
        "unreadable": unreadable,
    }


def _report(
    arguments: argparse.Namespace, checked: _Checked, videos: dict[str, Any] | None, overlaps: dict[str, Any] | None
) -> dict[str, Any]:
    inputs = {str(path): hash_file(path) for path in (*arguments.files, *arguments.against)}
    config = {
        "files": [str(path) for path in arguments.files],
        "against": [str(path) for path in arguments.against],
        "media_root": None if arguments.media_root is None else str(arguments.media_root),
        "max_failure_rate": arguments.max_failure_rate,
    }
    return {
        "files": checked.files,
        "rows": checked.num_rows,
        "rows_with_faults": len(checked.faulty),
        "faults": {kind: _listed(found) for kind, found in _sorted(checked) if kind not in RECORD_NOTES},
        "notes": {kind: _listed(found) for kind, found in _sorted(checked) if kind in RECORD_NOTES},
        "videos": videos,
        "overlaps": overlaps,
        "provenance": provenance(config, inputs=inputs),
    }


def _sorted(checked: _Checked) -> list[tuple[str, list[Finding]]]:
    return sorted(checked.findings.items(), key=lambda found: (-len(found[1]), found[0]))


def _listed(found: Sequence[Finding]) -> dict[str, Any]:
    kind = found[0].kind
    meaning = {**RECORD_FAULTS, **RECORD_NOTES}.get(kind) or SPAN_FAULTS.get(kind.removeprefix("video:"))
    rows = [
        {name: value for name, value in asdict(finding).items() if name != "kind"} for finding in found[:MAX_LISTED]
    ]
    return {"count": len(found), "meaning": meaning or "the video cannot be read", "listed": len(rows), "rows": rows}


def told(report: dict[str, Any]) -> Iterator[str | Table]:
    """Yields the report for people, line by line."""
    for file in report["files"]:
        yield f"{file['file']}: {file['rows']:,} {file['records']}, {file['rows_with_record_faults']:,} with faults"
    videos = report["videos"]
    if videos is None:
        yield "videos: not checked; give --media-root"
    else:
        yield (
            f"videos: {videos['unique']:,} different ones ({videos['hours']:,.1f} h, {videos['folders_of_pictures']:,} "
            f"folders of pictures), {len(videos['unreadable']):,} cannot be read"
        )
    for title, found in (("fault", report["faults"]), ("note", report["notes"])):
        for kind, told_kind in found.items():
            yield f"{title} {kind}: {told_kind['count']:,} ({told_kind['meaning']})"
            for row in told_kind["rows"][:NUM_EXAMPLES]:
                yield f"    {row['file']}: row {row['row']}: {row['record_id']} {row['detail']}".rstrip()
    if report["overlaps"] is not None:
        yield from _told_overlaps(report["overlaps"])
    yield f"{report['rows_with_faults']:,} of {report['rows']:,} records have a fault"


def _told_overlaps(overlaps: dict[str, Any]) -> Iterator[str | Table]:
    yield (
        f"overlap: {overlaps['training_records']:,} records against {overlaps['benchmark_records']:,} questions; "
        f"{overlaps['videos']['num_shared']:,} videos are shared"
    )
    table = Table("task", "questions", *OVERLAPS.values(), title="questions that share with training a …")
    for task in overlaps["by_task"]:
        table.add_row(task["task"], f"{task['questions']:,}", *(f"{task[kind]:,}" for kind in OVERLAPS))
    yield table
    texts = overlaps["texts"]
    yield (
        f"different texts: {texts['num_same']:,} the same, {texts['num_similar']:,} similar; "
        f"{texts['num_same_short']:,} shorter than {texts['min_words']} words are the same and not counted"
    )
    for template in texts["shared_templates"]:
        yield (
            f"template, compared by its answers: {template['question']!r}: {template['training_records']:,} records, "
            f"{template['benchmark_records']:,} questions"
        )


if __name__ == "__main__":
    sys.exit(main())
