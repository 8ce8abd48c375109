"""Unreadable samples: dropped, logged and counted against a budget; never replaced by another sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from exo2ego.errors import DataError, VideoError
from exo2ego.storage import JsonlAppender


@dataclass(frozen=True)
class Unreadable:
    """What a data set returns, from any worker process, in place of a sample whose video cannot be read."""

    sample_id: str
    path: str
    reason: str
    """One short word, as in `VideoError`."""
    detail: str

    @classmethod
    def from_error(cls, sample_id: str, error: VideoError) -> Unreadable:
        """Returns the failure of one sample."""
        return cls(sample_id, error.path, error.reason, error.detail)


@dataclass
class FailureBudget:
    """Counts samples and failures in the main process, and stops the run when too many samples are unreadable.

    The run stops as soon as failures exceed `max_rate` of the samples seen. Below `minimum_samples` the rate is judged
    as if that many had been seen, so that one bad file at the start of a run is not a rate of 100 %: the defaults
    allow one failure in the first 1,000 samples. A rate of 0 allows none at all.
    """

    max_rate: float = 0.001
    log_path: Path | None = None
    """JSONL file that gets one line per failure."""
    minimum_samples: int = 1000
    num_seen: int = 0
    num_failures: int = 0

    def record(self, failures: Sequence[Unreadable], *, seen: int) -> None:
        """Logs and counts the failures among `seen` samples; raises `DataError` when the budget is spent."""
        self.num_seen += seen
        self.num_failures += len(failures)
        if not failures:
            return
        if self.log_path is not None:
            with JsonlAppender(self.log_path) as log:
                for failure in failures:
                    log.append(asdict(failure))
        if self.num_failures > self.max_rate * max(self.num_seen, self.minimum_samples):
            raise DataError(self._spent(failures[-1]))

    def _spent(self, last: Unreadable) -> str:
        where = f"; all are listed in {self.log_path}" if self.log_path is not None else ""
        return (
            f"{self.num_failures} of {self.num_seen} samples could not be read, more than data.max_failure_rate="
            f"{self.max_rate:g} allows; the last: {last.sample_id}: {last.path}: {last.detail} [{last.reason}]{where}. "
            "Repair or remove these files, or raise data.max_failure_rate"
        )
