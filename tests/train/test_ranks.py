"""One or two processes: the same samples and losses however a run goes on, and a fault of one concerns all."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from exo2ego.data.datasets import ClipReader
from exo2ego.data.spans import Span
from exo2ego.errors import Exo2EgoError
from exo2ego.storage import read_jsonl
from exo2ego.train.checkpoint import find_checkpoint
from scripts.reliability.lives import free_port
from tests.tiny_corpus import TinyCorpus
from tests.tiny_runs import metrics, run
from tests.train.conftest import Chain

# few and small steps: AdamW turns a rounding difference of a gradient near 0 into a step of the other sign
SCHEDULE = (
    "epochs=2",
    "max_steps=null",
    "checkpoint.every_steps=1",
    "checkpoint.keep_last=9",
    "optim.learning_rate=1e-5",
)


@dataclass(frozen=True)
class SleepyReader(ClipReader):
    """Does not return from one span."""

    def pixels(self, span: Span, *how: Any) -> tuple[Tensor, Tensor]:
        if span.video == "take1_aria.mp4" and span.start_s is not None and 0.7 < span.start_s < 0.9:
            time.sleep(3600)
        return super().pixels(span, *how)


def nothing(rank: int) -> None:
    pass


def spoil(change: Callable[[Tensor], Tensor]) -> Callable[[int], None]:
    """Changes the KL term of process 1 in its fourth micro-batch: the second of step 2."""

    def apply(rank: int) -> None:
        from exo2ego.train.objective import Term
        from stages.stage2 import Stage2

        losses, calls = Stage2.losses, []

        def spoilt(stage: Any, model: Any, batch: Any) -> Any:
            terms = losses(stage, model, batch)
            calls.append(batch.sample_ids)
            if rank == 1 and len(calls) == 4:
                Path(os.environ["NOTES"]).with_suffix(".fault").write_text(json.dumps(batch.sample_ids))
                terms = terms | {"kl": Term(change(terms["kl"].total), per="clip")}
            return terms

        Stage2.losses = spoilt  # type: ignore[method-assign]

    return apply


def sleep_at_one_video(rank: int) -> None:
    from exo2ego.train import preparation

    preparation.ClipReader = SleepyReader  # type: ignore[misc]


def no_targets(rank: int) -> None:
    from exo2ego.data.batch import Collator
    from exo2ego.model.tokens import IGNORED

    text, calls = Collator._text, []

    def without(collator: Collator, samples: Any) -> Any:
        batch = text(collator, samples)
        calls.append(0)
        if len(calls) in (3, 4):
            batch.labels.fill_(IGNORED)
        return batch

    Collator._text = without  # type: ignore[method-assign]


SITUATIONS: dict[str, Callable[[int], None]] = {
    "nothing": nothing,
    "NaN": spoil(lambda value: value * float("nan")),
    "infinite": spoil(lambda value: value + float("inf")),
    "NaN gradient": spoil(lambda value: value + (value - value).abs().sqrt()),
    "sleep": sleep_at_one_video,
    "no targets": no_targets,
}


def note_steps(path: Path) -> None:
    """Writes down which samples every step had here, and how many unreadable ones are known."""
    from exo2ego.train import loop

    take_step = loop.take_step

    def take_and_note(run: Any, step: int, micro_batches: Any, request: Any) -> Any:
        taken = take_step(run, step, micro_batches, request)
        ids = [sample for batch in micro_batches for sample in batch.sample_ids]
        with path.open("a") as stream:
            stream.write(json.dumps({"step": step, "ids": ids, "unreadable": run.failures.num_failures}) + "\n")
        return taken

    loop.take_step = take_and_note


def one_rank(
    rank: int, environment: dict[str, str], situation: str, notes: Path, arguments: tuple[Any, ...], resume: str | None
) -> None:
    os.environ |= environment
    log = notes.with_suffix(".log").open("w")
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    SITUATIONS[situation](rank)
    note_steps(notes)
    try:
        code = run(*arguments, resume=resume)
    except Exo2EgoError as error:
        notes.with_suffix(".error").write_text(str(error), encoding="utf-8")
        code = error.exit_code
    raise SystemExit(code)


def run_ranks(
    count: int, stage: str, corpus: TinyCorpus, run_dir: Path, *overrides: str, situation: str = "nothing",
    resume: Path | None = None,
) -> list[int | None]:  # fmt: skip
    """Runs a stage in `count` processes; returns their exit codes. Their notes lie beside `run_dir`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.tiny_runs"])
    joined = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
    ranks = []
    for rank in range(count):
        notes = notes_of(run_dir, rank)
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), **joined} if count > 1 else {}
        arguments = (stage, corpus, run_dir, *overrides)
        given = (rank, own | {"NOTES": str(notes)}, situation, notes, arguments, str(resume) if resume else None)
        ranks.append(context.Process(target=one_rank, args=given))
        ranks[-1].start()
    for process in ranks:
        process.join(300)
        if process.exitcode is None:
            process.kill()
    return [process.exitcode for process in ranks]


def notes_of(run_dir: Path, rank: int) -> Path:
    return run_dir.with_name(f"{run_dir.name}.{rank}.jsonl")


def samples(run_dir: Path, count: int) -> dict[int, list[str]]:
    """Returns the samples of every step, in the order of the global batch: micro-batch by micro-batch."""
    noted = [{row["step"]: row["ids"] for row in read_jsonl(notes_of(run_dir, rank))} for rank in range(count)]
    return {step: sorted(one for of_rank in noted for one in of_rank[step]) for step in noted[0]}


@pytest.mark.slow
def test_a_run_moves_between_processes_workers_and_micro_batches(
    corpus: TinyCorpus, chain: Chain, tmp_path: Path
) -> None:
    """1 process, then 2, then 1 again; the samples of every step are the same ones, each once in an epoch."""
    # instance norm and a small epsilon turn roundings into steps of the other sign (tests/train/test_processes.py)
    stable = ("model.mapper.norm=layer", "optim.epsilon=1e-5")
    arguments = (*SCHEDULE, *stable, "pairing=grouped", f"parent={chain.stage1}")
    whole, two, back = tmp_path / "whole", tmp_path / "two", tmp_path / "back"
    assert run_ranks(1, "stage2", corpus, whole, *arguments) == [0]
    moves: list[tuple[int, Path, Path, int, tuple[str, ...]]] = [
        (2, two, whole, 1, ("batch.local_size=1",)),
        (1, back, two, 4, ("batch.local_size=4", "data.num_workers=2")),
    ]
    expected = samples(whole, 1)
    assert [sorted(one for step in steps for one in expected[step]) for steps in ((1, 2, 3), (4, 5, 6))] == [
        sorted(f"take{take}/0/{number}" for take in (0, 1) for number in range(6))
    ] * 2
    for count, run_dir, origin, step, changes in moves:
        earlier = origin / "checkpoints" / f"step_{step:08d}"
        assert run_ranks(count, "stage2", corpus, run_dir, *arguments, *changes, resume=earlier) == [0] * count
        assert samples(run_dir, count) == {later: ids for later, ids in expected.items() if later > step}
        for mine, other in zip(metrics(run_dir), metrics(whole)[step:], strict=True):
            assert mine["loss"] == pytest.approx(other["loss"], rel=1e-6)


@pytest.mark.parametrize(
    ("situation", "message"),
    [
        ("NaN", "step 2: {'loss': nan, 'loss/kl': nan"),
        pytest.param("infinite", "step 2: {'loss': inf, 'loss/kl': inf", marks=pytest.mark.slow),
        pytest.param("NaN gradient", "step 2: {'gradient_norm': nan}", marks=pytest.mark.slow),
    ],
)
def test_what_is_not_finite_on_one_process_stops_all(
    corpus: TinyCorpus, chain: Chain, tmp_path: Path, situation: str, message: str
) -> None:
    run_dir, arguments = tmp_path / "run", (*SCHEDULE, "batch.local_size=1", f"parent={chain.stage1}")
    assert run_ranks(2, "stage2", corpus, run_dir, *arguments, situation=situation) == [6, 6]
    said = [notes_of(run_dir, rank).with_suffix(".error").read_text(encoding="utf-8") for rank in (0, 1)]
    good = find_checkpoint(run_dir)
    same, named, rest = said[0].partition(f". Last good checkpoint: {good.path}")
    assert (bool(named), rest) == (True, "")
    assert said[1] == f"{same}. Process 0 names the last checkpoint"
    assert said[0].startswith(message)
    assert good.step == 1
    assert [row["step"] for row in metrics(run_dir)] == [1]
    at_fault = json.loads(notes_of(run_dir, 1).with_suffix(".fault").read_text())
    if situation != "NaN gradient":
        assert f"Samples of the micro-batches at fault: {at_fault}." in said[0]
    else:
        assert at_fault[0] in said[0]
    assert all(bool(tensor.isfinite().all()) for tensor in good.tensors().values())


@pytest.mark.slow
def test_a_step_without_targets_names_the_samples_of_all(corpus: TinyCorpus, chain: Chain, tmp_path: Path) -> None:
    run_dir, arguments = tmp_path / "run", (*SCHEDULE, "batch.local_size=1", f"parent={chain.stage1}")
    assert run_ranks(2, "stage2", corpus, run_dir, *arguments, situation="no targets") == [6, 6]
    said = [notes_of(run_dir, rank).with_suffix(".error").read_text(encoding="utf-8") for rank in (0, 1)]
    assert said[0].partition(". Last good")[0] == said[1].removesuffix(". Process 0 names the last checkpoint")
    assert said[0].startswith("step 2: no sample has a token to learn; samples ['take")
    assert said[0].count("take") == 4 + str(find_checkpoint(run_dir).path).count("take")


@pytest.mark.slow
def test_a_video_that_does_not_come_counts_on_all_processes_alike(
    corpus: TinyCorpus, chain: Chain, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    slow = ("data.num_workers=1", "data.timeout_s=4", "data.max_failure_rate=0.5", "max_steps=3", "data.decoder=pyav")
    arguments = (*SCHEDULE, *slow, "batch.local_size=2", f"parent={chain.stage2}")
    assert run_ranks(2, "stage3", corpus, run_dir, *arguments, situation="sleep") == [0, 0]
    (failure,) = read_jsonl(run_dir / "failures.jsonl")
    assert (failure["reason"], failure["path"]) == ("timeout", "take1_aria.mp4")
    noted = [[row["unreadable"] for row in read_jsonl(notes_of(run_dir, rank))] for rank in (0, 1)]
    assert noted[0] == noted[1] == [row["unreadable"] for row in metrics(run_dir)]
    assert noted[0][-1] == 1
    assert torch.isfinite(torch.tensor([row["loss"] for row in metrics(run_dir)])).all()
