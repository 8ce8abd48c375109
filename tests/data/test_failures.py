"""Unreadable samples: counted, logged, never replaced; also through the worker processes of a loader."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from exo2ego.data.failures import FailureBudget, Unreadable
from exo2ego.data.video import read_frames
from exo2ego.errors import DataError, VideoError
from tests.data.generated_videos import numbers, write_video

FAILURE = Unreadable("take/1/2", "videos/a.mp4", "truncated", "ends after 1 s")


def test_the_defaults_allow_one_failure_in_the_first_thousand_samples() -> None:
    budget = FailureBudget()
    budget.record([FAILURE], seen=4)
    budget.record([], seen=4)
    with pytest.raises(DataError, match=r"2 of 12 samples .*max_failure_rate=0\.001 .*take/1/2.*\[truncated\]"):
        budget.record([FAILURE], seen=4)


def test_the_rate_counts_over_the_whole_run() -> None:
    budget = FailureBudget(max_rate=0.01, minimum_samples=1)
    budget.record([], seen=300)
    budget.record([FAILURE] * 3, seen=3)
    with pytest.raises(DataError):
        budget.record([FAILURE], seen=1)
    assert (budget.num_seen, budget.num_failures) == (304, 4)


def test_a_rate_of_zero_stops_at_the_first_and_of_one_never() -> None:
    with pytest.raises(DataError):
        FailureBudget(max_rate=0).record([FAILURE], seen=1000)
    FailureBudget(max_rate=1).record([FAILURE] * 5000, seen=5000)


def test_every_failure_is_logged_before_the_run_stops(tmp_path: Path) -> None:
    log_path = tmp_path / "run" / "failures.jsonl"
    budget = FailureBudget(max_rate=0, log_path=log_path)
    with pytest.raises(DataError, match=r"failures\.jsonl"):
        budget.record([FAILURE, FAILURE], seen=2)
    assert [json.loads(line) for line in log_path.read_text().splitlines()] == [
        {"sample_id": "take/1/2", "path": "videos/a.mp4", "reason": "truncated", "detail": "ends after 1 s"}
    ] * 2


def test_the_log_goes_on_after_a_kill_in_the_middle_of_a_line(tmp_path: Path) -> None:
    log_path = tmp_path / "failures.jsonl"
    log_path.write_text('{"sample_id": "a"}\n{"sample_')
    FailureBudget(max_rate=1, log_path=log_path).record([FAILURE], seen=1)
    assert [json.loads(line)["sample_id"] for line in log_path.read_text().splitlines()] == ["a", "take/1/2"]


def test_budget_and_errors_travel_between_processes() -> None:
    budget = FailureBudget(num_seen=7, num_failures=1)
    assert pickle.loads(pickle.dumps(budget)) == budget
    error = pickle.loads(pickle.dumps(VideoError("a.mp4", "missing", "cannot be found")))
    assert str(error) == "a.mp4: cannot be found [missing]"
    assert Unreadable.from_error("id", error) == Unreadable("id", "a.mp4", "missing", "cannot be found")


class Videos(Dataset):
    """Reads the number on the fourth frame of each video."""

    def __init__(self, paths: list[Path], decoder: str) -> None:
        self.paths = paths
        self.decoder = decoder

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> int | Unreadable:
        try:
            return index * 100 + numbers(read_frames(self.paths[index], 0.1, 0.1, 1, decoder=self.decoder))[0]
        except VideoError as error:
            return Unreadable.from_error(str(index), error)


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_loader_workers_name_exactly_the_bad_files_and_keep_the_order(tmp_path: Path, decoder: str) -> None:
    good = write_video(tmp_path / "good.mp4", 12).read_bytes()
    paths = []
    for index in range(24):
        paths.append(tmp_path / f"{index}.mp4")
        if index % 6 != 5:
            paths[-1].write_bytes(good)
        elif index == 11:
            paths[-1].write_bytes(good[: len(good) // 2])
    budget = FailureBudget(max_rate=1, log_path=tmp_path / "failures.jsonl")
    readable: list[int] = []
    for batch in DataLoader(Videos(paths, decoder), batch_size=5, num_workers=2, collate_fn=list):
        failures = [sample for sample in batch if isinstance(sample, Unreadable)]
        budget.record(failures, seen=len(batch))
        readable += [sample for sample in batch if not isinstance(sample, Unreadable)]
    assert readable == [index * 100 + 3 for index in range(24) if index % 6 != 5]
    logged = [json.loads(line) for line in (tmp_path / "failures.jsonl").read_text().splitlines()]
    assert [(row["sample_id"], row["reason"]) for row in logged] == [
        ("5", "missing"),
        ("11", "truncated"),
        ("17", "missing"),
        ("23", "missing"),
    ]
    assert (budget.num_seen, budget.num_failures) == (24, 4)
