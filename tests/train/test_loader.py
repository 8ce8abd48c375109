"""Worker processes that die, stop or hang: every micro-batch still comes, once, in order, with the same content."""

from __future__ import annotations

import errno
import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

from exo2ego.data.batch import Batch
from exo2ego.data.pairing import MicroBatches
from exo2ego.data.spans import Span
from exo2ego.errors import DataError
from exo2ego.train import workers as module
from exo2ego.train.loader import Loader
from exo2ego.train.preparation import Prepared
from exo2ego.train.workers import Restarts
from tests.tiny_corpus import TinyCorpus
from tests.tiny_runs import prepare_orphan

SECONDS_ALLOWED = 6.0


@dataclass
class FaultyReader:
    """Reads, but does `act` at one span: the first time only where `mark` is given."""

    inner: Any
    act: str
    at: Span
    mark: Path | None

    @property
    def processor(self) -> Any:
        return self.inner.processor

    def pixels(self, span: Span, *how: Any) -> tuple[Tensor, Tensor]:
        if span[:3] == self.at[:3] and (self.mark is None or not self.mark.exists()):
            if self.mark is not None:
                self.mark.touch()
            if self.act == "sleep":
                time.sleep(3600)
            elif self.act == "leave":
                os._exit(3)
            else:
                os.kill(os.getpid(), getattr(signal, self.act))
        return self.inner.pixels(span, *how)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def prepared(corpus: TinyCorpus) -> Prepared:
    """Stage 2 with all views of a clip in a sample: several videos each."""
    return prepare_orphan("stage2", corpus, "pairing=grouped")


@pytest.fixture(autouse=True)
def nothing_is_left() -> Any:
    """No process of a test outlives it, not even as a zombie."""
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    yield
    limit = time.monotonic() + 30
    while time.monotonic() < limit:
        left = [one for one in psutil.Process().children(recursive=True) if one.pid not in before and not serves(one)]
        if not left:
            return
        time.sleep(0.1)
    pytest.fail(f"left over: {left}")


def serves(process: psutil.Process) -> bool:
    """Whether this is one of multiprocessing's own two servers, which stay for the next processes."""
    try:
        return process.ppid() == os.getpid() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def loader(prepared: Prepared, num_workers: int, samples: Any = None, **changes: Any) -> Loader:
    micro_batches = MicroBatches(
        prepared.order, local_size=2, accumulation=1, process_index=0, num_processes=1, start_step=0, end_step=6
    )
    settings: dict[str, Any] = {"timeout_s": None, "restarts": Restarts(allowed=20, rank=0)}
    samples = samples if samples is not None else prepared.samples
    return Loader(samples, prepared.collate, micro_batches, num_workers=num_workers, **settings | changes)


def faulty(prepared: Prepared, act: str, mark: Path | None) -> Any:
    """The samples, with a fault at the second exocentric video of the third micro-batch's second clip."""
    import copy

    samples = copy.copy(prepared.samples)
    clip = samples.clips[prepared.order.at(5).index]
    samples.reader = FaultyReader(samples.reader, act, Span(clip.exo_videos[1], clip.start_s, clip.end_s), mark)
    return samples


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        for name, value in vars(mine).items():
            expected = getattr(other, name)
            assert torch.equal(value, expected) if isinstance(value, Tensor) else value == expected, name


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_workers_change_nothing(prepared: Prepared, num_workers: int) -> None:
    assert_same(list(loader(prepared, num_workers)), list(loader(prepared, 0)))


@pytest.mark.parametrize("act", ["SIGKILL", "SIGSEGV", "leave", "SIGSTOP", "sleep"])
def test_a_fault_that_passes_loses_nothing(
    prepared: Prepared, act: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    timeout_s = SECONDS_ALLOWED if act in ("SIGSTOP", "sleep") else None
    restarts = Restarts(allowed=1, rank=3)
    samples = faulty(prepared, act, tmp_path / "happened")
    disturbed = list(loader(prepared, 2, samples, timeout_s=timeout_s, restarts=restarts))
    assert_same(disturbed, list(loader(prepared, 0)))
    assert restarts.count == 1
    said = {
        "leave": "ended with exit code 3",
        "SIGSTOP": "made no progress in 6 s (data.timeout_s)",
        "sleep": "made no progress in 6 s (data.timeout_s)",
    }.get(act, f"was killed by {act}")
    row = prepared.order.at(5).index
    where = f"data worker 0 of process 3 {said} at video 3 of row {row} of data.table: replaced (1 of at most 1 times)"
    assert where in " ".join(capfd.readouterr().err.split())


@pytest.mark.parametrize(("act", "reason"), [("SIGSEGV", "decoder_died"), ("sleep", "timeout")])
def test_a_video_that_does_it_twice_is_unreadable(prepared: Prepared, act: str, reason: str) -> None:
    samples = faulty(prepared, act, None)
    batches = list(loader(prepared, 2, samples, timeout_s=SECONDS_ALLOWED))
    whole = list(loader(prepared, 0))
    (failure,) = batches[2].failures
    assert (failure.reason, failure.path) == (reason, samples.reader.at.video)
    assert failure.sample_id == whole[2].sample_ids[1]
    assert "twice" in failure.detail
    assert batches[2].sample_ids == whole[2].sample_ids[:1]
    assert_same(batches[:2], whole[:2])
    for mine, other in zip(batches[3:], whole[3:], strict=True):  # other clips may be of the same video, given up now
        assert {(one.reason, one.path) for one in mine.failures} <= {(reason, failure.path)}
        assert mine.failures or mine.sample_ids == other.sample_ids
        if not mine.failures:
            assert_same([mine], [other])


def test_a_video_given_up_costs_no_more_processes(prepared: Prepared, capfd: pytest.CaptureFixture[str]) -> None:
    restarts = Restarts(allowed=1, rank=0)
    samples = faulty(prepared, "SIGKILL", None)
    (first,) = list(loader(prepared, 1, samples, restarts=restarts))[2].failures
    assert (restarts.count, list(restarts.given_up)) == (0, [samples.reader.at.video])
    assert capfd.readouterr().err.count("killed by SIGKILL") == 2
    (again,) = list(loader(prepared, 1, samples, restarts=restarts))[2].failures
    assert again == first
    assert restarts.count == 0
    assert "killed" not in capfd.readouterr().err


def test_too_many_replacements_stop_the_run(prepared: Prepared) -> None:
    samples = faulty(prepared, "SIGKILL", None)
    with pytest.raises(
        DataError, match=r"killed by SIGKILL at video 3 .* replaced 0 times already, as often as data\."
    ):
        list(loader(prepared, 1, samples, restarts=Restarts(allowed=0, rank=0)))


def test_too_little_memory_for_a_message_is_no_death(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(module, "receive", full)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        list(loader(prepared, 1))


def test_batches_are_pinned_where_there_is_a_gpu(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor + 0 if tensor.dtype != torch.bool else ~tensor)
    (ours, *_), (theirs, *_) = loader(prepared, 0), prepared_batches(prepared)
    assert torch.equal(ours.pixels, theirs.pixels)
    assert torch.equal(ours.patch_mask, ~theirs.patch_mask)
    assert ours.sample_ids == theirs.sample_ids


def prepared_batches(prepared: Prepared) -> list[Batch]:
    made = loader(prepared, 0)
    return [made.collate([made.samples[sample] for sample in wanted]) for wanted in made.micro_batches]


def test_a_worker_stopped_while_it_waits(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """It had answers ready and owes more: what is ready is taken, the rest is read by another."""
    whole, made = list(loader(prepared, 0)), []
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.2)
    restarts = Restarts(allowed=1, rank=0)
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    for batch in loader(prepared, 1, timeout_s=SECONDS_ALLOWED, restarts=restarts):
        made.append(batch)
        if len(made) == 2:
            (worker,) = (one for one in psutil.Process().children(recursive=True) if is_new_worker(one, before))
            worker.send_signal(signal.SIGSTOP)
    assert_same(made, whole)
    assert restarts.count == 1


def is_new_worker(process: psutil.Process, before: set[int]) -> bool:
    return process.pid not in before and process.ppid() != os.getpid()


def test_workers_end_with_a_run_that_is_given_up(prepared: Prepared) -> None:
    batches = iter(loader(prepared, 2))
    next(batches)
    batches.close()  # type: ignore[attr-defined]


def test_errors_of_a_worker_keep_their_kind(prepared: Prepared) -> None:
    import copy

    samples = copy.copy(prepared.samples)
    samples.encode = replace(samples.encode, max_text_tokens=1)  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"^sample take.*raise it or remove the sample$"):
        list(loader(prepared, 1, samples))
    samples.encode = None  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match=r"in a data worker: Traceback[\s\S]*'NoneType' object is not callable"):
        list(loader(prepared, 1, samples))
