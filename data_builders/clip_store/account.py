"""Where every clip of the input went, and the budget for those that cannot be stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_builders.clip_store.options import ClipStoreOptions
from data_builders.clip_store.parts import OUTSIDE, Part
from data_builders.clip_store.requests import Request
from exo2ego.data.spans import Span
from exo2ego.errors import DataError
from exo2ego.storage import write_jsonl

FAILURES_FILE = "failures.jsonl"
_SPAN_COLUMNS = ["video", "start_s", "end_s", "frame_rate", "observation_s"]


@dataclass(frozen=True)
class Failed:
    """Why a span is not in the store."""

    reason: str
    detail: str


@dataclass
class FailureLimit:
    """Counts spans that cannot be stored; the run stops as soon as they are too many."""

    max_rate: float
    num_spans: int
    out: Path
    num_failed: int = 0

    def add(self, count: int) -> bool:
        """Counts failures; returns whether there are now too many."""
        self.num_failed += count
        return self.num_failed > self.max_rate * self.num_spans

    def error(self) -> DataError:
        """Returns the error of too many failures."""
        return DataError(
            f"{self.num_failed:,} of {self.num_spans:,} distinct clips cannot be stored, more than --max-failure-rate "
            f"{self.max_rate:g} allows; those found so far are listed in {self.out / FAILURES_FILE}. Repair or remove "
            "these files (what is stored is kept, failures are tried again), or raise --max-failure-rate"
        )


def failed_spans(parts: Iterable[Part]) -> dict[Span, Failed]:
    """Returns every span of the complete parts that is not stored."""
    failed: dict[Span, Failed] = {}
    for part in parts:
        if not part.rows_path.is_file():
            continue
        rows = part.rows().select([*_SPAN_COLUMNS, "reason", "detail"])
        for row in rows.filter(rows["reason"].is_valid()).to_pylist():
            failed[Span(*(row[name] for name in _SPAN_COLUMNS))] = Failed(row["reason"], row["detail"])
    return failed


def write_failures(out: Path, requests: Iterable[Request], failed: dict[Span, Failed]) -> dict[str, Any]:
    """Lists every clip of the input that is not stored, and returns where all of them went; the numbers sum up."""
    requested: Counter[str] = Counter()
    unreadable: Counter[str] = Counter()

    def rows() -> Iterator[dict[str, Any]]:
        for record_id, span in requests:
            failure = failed.get(span)
            state = "written" if failure is None else "outside" if failure.reason == OUTSIDE else "unreadable"
            requested[state] += 1
            if failure is None:
                continue
            unreadable[failure.reason] += state == "unreadable"
            why = {"state": state, "reason": failure.reason, "detail": failure.detail}
            yield {"id": record_id, **span._asdict(), **why}

    write_jsonl(out / FAILURES_FILE, rows())
    return {
        "requested": requested.total(),
        "written": requested["written"],
        "outside": requested["outside"],
        "unreadable": requested["unreadable"],
        "unreadable_by_reason": dict(sorted((+unreadable).items())),
    }


def describe_account(account: dict[str, Any], options: ClipStoreOptions) -> Sequence[str]:
    """Returns the account as lines for people."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in account["unreadable_by_reason"].items())
    lines = [
        f"clips  {account['requested']:,} asked for = {account['written']:,} written + {account['outside']:,} outside "
        f"their video + {account['unreadable']:,} unreadable" + (f" ({reasons})" if reasons else "")
    ]
    if account["outside"] or account["unreadable"]:
        lines.append(f"       the others are listed in {options.out / FAILURES_FILE}")
    return lines
