"""One objective however a step is cut up: into micro-batches of any size, with or without unreadable samples."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from exo2ego.train.loop import TrainingRun, take_step
from exo2ego.train.processes import start_accelerator
from exo2ego.train.run import build_run
from exo2ego.train.stopping import StopRequest
from exo2ego.train.updating import Updater
from tests.tiny_corpus import NUM_EXO_VIEWS, TinyCorpus
from tests.tiny_runs import batch_of, prepare_orphan

# the steps here are looked at, not taken
pytestmark = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")

# of each part's gradient, as a vector. Float32 sums in another order gave up to 1.1e-6; a mean of means over texts of
# 5 to 20 tokens, or a sample that is missing or counted twice, is off by percents
RELATIVE_TOLERANCE = 1e-5


def built(corpus: TinyCorpus, *overrides: str) -> TrainingRun:
    prepared = prepare_orphan("stage2", corpus, "batch.global_size=8", "optim.max_gradient_norm=1e9", *overrides)
    accelerator: Accelerator = start_accelerator(prepared.stage.config)
    return build_run(prepared, accelerator, None, run_dir=None)


def first_step(run: TrainingRun, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Takes step 1 without its update; returns the gradients and the metrics."""
    monkeypatch.setattr(Updater, "apply", lambda updater: None)
    batches = iter(run.batches)
    micro_batches = [next(batches) for _ in range(run.plan.accumulation)]
    metrics, _ = take_step(run, 1, micro_batches, StopRequest())
    named = run.updater.model.named_parameters()
    return {name: parameter.grad for name, parameter in named if parameter.grad is not None}, metrics


def assert_same_gradients(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for part in sorted({name.split(".")[1] for name in theirs}):
        names = [name for name in theirs if name.split(".")[1] == part]
        mine, other = (torch.cat([side[name].flatten() for name in names]) for side in (ours, theirs))
        assert float((mine - other).norm()) <= RELATIVE_TOLERANCE * float(other.norm()), part


@pytest.mark.parametrize("pairing", ["all_pairs", "grouped"])
@pytest.mark.parametrize("local_size", [4, 2, 1])
def test_accumulation_changes_nothing(
    corpus: TinyCorpus, monkeypatch: pytest.MonkeyPatch, pairing: str, local_size: int
) -> None:
    at_once, expected = first_step(built(corpus, f"pairing={pairing}", "batch.local_size=8"), monkeypatch)
    run = built(corpus, f"pairing={pairing}", f"batch.local_size={local_size}")
    assert run.plan.accumulation == 8 // local_size
    in_parts, measured = first_step(run, monkeypatch)
    assert_same_gradients(in_parts, at_once)
    for name in ("loss", "loss/text", "loss/kl", "loss/cycle", "gradient_norm"):
        assert measured[name] == pytest.approx(expected[name], rel=1e-5)
    assert measured["target_tokens"] == expected["target_tokens"]


def test_an_unreadable_sample_is_left_out_of_every_mean(
    corpus: TinyCorpus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A micro-batch of one unreadable clip is a blank with weight 0: the other seven decide the step."""
    shutil.copytree(corpus.root, tmp_path / "videos", ignore=shutil.ignore_patterns("take0_aria.mp4"))
    overrides = (f"data.root={tmp_path / 'videos'}", "data.max_failure_rate=1")
    at_once, expected = first_step(built(corpus, *overrides, "batch.local_size=8"), monkeypatch)
    in_parts, measured = first_step(built(corpus, *overrides, "batch.local_size=1"), monkeypatch)
    assert 0 < measured["unreadable"] == expected["unreadable"] < 8
    assert measured["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert_same_gradients(in_parts, at_once)


def test_the_step_is_the_gradient_of_the_plain_mean(corpus: TinyCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """All weights but the text's at 0: the step must be torch's own mean cross-entropy over all target tokens."""
    run = built(corpus, "batch.local_size=2", "loss.kl.weight=0", "loss.cycle.weight=0")
    gradients, metrics = first_step(run, monkeypatch)
    model = run.updater.model
    model.zero_grad()
    sums, count = [], 0
    batches = iter(run.batches)
    for batch in [next(batches) for _ in range(run.plan.accumulation)]:
        output = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            labels=batch.labels,
            pixel_values_videos=batch.pixels,
            view="ego",
        )
        sums.append(torch.nn.functional.cross_entropy(output.target_logits, output.target_ids, reduction="sum"))
        count += len(output.target_ids)
    loss = torch.stack(sums).sum() / count
    loss.backward()
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert metrics["target_tokens"] == count
    plain = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert_same_gradients({name: gradients[name] for name in plain}, plain)


def test_a_grouped_clip_has_the_gradient_of_its_pairs_average(corpus: TinyCorpus) -> None:
    """One pass with all views of a clip, against the mean over one pass per view: KL, cycle and text together."""
    grouped = prepare_orphan("stage2", corpus, "pairing=grouped")
    pairs = prepare_orphan("stage2", corpus, "pairing=all_pairs")
    whole = batch_of(grouped, [0])
    clip = whole.sample_ids[0]
    singles = [batch_of(pairs, [position]) for position in range(len(pairs.order))]
    of_clip = [batch for batch in singles if batch.sample_ids[0].startswith(f"{clip}@")]
    assert len(of_clip) in NUM_EXO_VIEWS
    gradients = []
    for prepared, batches in ((grouped, [whole]), (pairs, of_clip)):
        prepared.model.zero_grad()
        for batch in batches:
            terms = prepared.stage.losses(prepared.model, batch)
            torch.stack([term.weight * term.total / len(batches) for term in terms.values()]).sum().backward()
        named = prepared.model.named_parameters()
        gradients.append({name: parameter.grad for name, parameter in named if parameter.grad is not None})
    assert_same_gradients(*gradients)


def test_one_forward_of_a_grouped_clip_runs_each_part_once(corpus: TinyCorpus) -> None:
    prepared = prepare_orphan("stage2", corpus, "pairing=grouped")
    model = prepared.model.model
    calls: dict[str, int] = {}
    for name in ("vision_tower", "teacher_tower", "language_model"):
        getattr(model, name).register_forward_hook(
            lambda module, inputs, output, name=name: calls.update({name: calls.get(name, 0) + 1})
        )
    prepared.stage.losses(prepared.model, batch_of(prepared, [0]))
    assert calls == {"vision_tower": 1, "teacher_tower": 1, "language_model": 1}
