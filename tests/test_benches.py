"""The measuring scripts run, compare equal things, and notice when they do not."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from scripts.bench import checkpoint, gpu_step, loader, loss_paths, pairing_cost, question_scoring, training_step
from scripts.bench.plain_model import used_plainly
from scripts.bench.random_stages import build_on, random_batch, random_stage
from scripts.bench.side_by_side import StepsBeside, difference_interval, in_turns, ratio_interval, timed
from scripts.bench.step_variants import ALL, Row, Variant, recompute

TINY = ("--size", "tiny", "--device", "cpu", "--precision", "fp32", "--steps", "1", "--warm-up", "0", "--no-compiled")


def burn(seconds: float) -> float:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return seconds


def test_ways_take_turns_and_the_first_round_does_not_count() -> None:
    order: list[str] = []
    ways = {name: timed(lambda name=name: order.append(name)) for name in "AB"}
    seconds = in_turns(ways, 2, lambda name, result: None)
    assert order == list("ABABAB")
    assert {name: len(values) for name, values in seconds.items()} == {"A": 2, "B": 2}


def test_a_wrong_result_ends_the_measurement() -> None:
    def check(name: str, result: float) -> None:
        assert result == 1, name

    with pytest.raises(AssertionError, match="B"):
        in_turns({"A": timed(lambda: 1), "B": timed(lambda: 2)}, 1, check)


def test_steps_beside_gives_each_loop_its_own_time() -> None:
    def other() -> Iterator[None]:
        while True:
            burn(0.004)
            yield

    beside = StepsBeside(other())
    for _ in beside.repeat("value", 3):
        burn(0.02)
    beside.end()
    assert len(beside.seconds) == len(beside.other_seconds) == 3
    assert min(beside.seconds) >= 0.02
    assert all(second >= 0.004 for second in beside.other_seconds)
    assert sum(beside.other_seconds) < sum(beside.seconds)


def test_intervals_of_equal_rounds_are_points() -> None:
    assert ratio_interval([2.0] * 5, [1.0] * 5) == (2.0, 2.0, 2.0)
    assert difference_interval([3.0] * 5, [1.0] * 5) == (2.0, 2.0, 2.0)


def test_the_plain_model_learns_the_same_and_leaves_no_trace() -> None:
    """Whole towers, all hidden states, all logits, two connector calls: the same losses and gradients."""
    stage = random_stage("stage2", "tiny", "recommended", "precision=fp32", "gradient_checkpointing=[]")
    torch.manual_seed(0)
    model = build_on(stage, torch.device("cpu"))
    batch = random_batch(stage, model, num_clips=2, num_views=2, text_tokens=12, target_tokens=6)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}

    def gradients(used: torch.nn.Module) -> dict[str, torch.Tensor]:
        terms = stage.losses(used, batch)
        torch.stack([term.total for term in terms.values()]).sum().backward()
        found = {name: parameter.grad.clone() for name, parameter in trained.items() if parameter.grad is not None}
        model.zero_grad()
        return found | {name: term.total.detach() for name, term in terms.items()}

    ours = gradients(model)
    names = list(model.state_dict())
    with used_plainly(model) as plain:
        assert len(model.state_dict()) > len(names), "the towers have no further layer"
        theirs = gradients(plain)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():  # float32 in another order: measured up to 4e-6
        assert float((theirs[name] - value).norm()) <= 1e-4 * float(value.norm()) + 1e-7, name
    assert list(model.state_dict()) == names
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == set(trained)
    assert not model.model.teacher_tower.training


def test_recomputation_is_turned_off_again() -> None:
    stage = random_stage("stage2", "tiny", "recommended", "precision=fp32")
    model = build_on(stage, torch.device("cpu"))
    recompute(model, ALL)
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.model.language_model.modules())
    recompute(model, ("connector",))
    on = {name for name, module in model.named_modules() if getattr(module, "gradient_checkpointing", False)}
    assert on == {"model.connector"}


def test_gpu_step_measures_every_variant_and_writes_every_step(tmp_path: Path) -> None:
    out = tmp_path / "steps.json"
    assert gpu_step.main([*TINY, "--stages", "stage2", "--out", str(out)]) == 0
    report = json.loads(out.read_text(encoding="utf-8"))
    assert not report["left_out"]
    assert {"code", "packages", "command"} <= report["provenance"].keys()
    rows = report["rows"]
    assert not [row["fault"] for row in rows if row["fault"]]
    assert {row["variant"]["plain"] for row in rows} == {True, False}
    assert {row["variant"]["views"] for row in rows} == {1, 4}
    for row in rows:
        assert len(row["step_s"]) == 1
        assert row["model_tflops"] == pytest.approx(row["model_tflop"] / row["median_s"])
        assert row["recomputed_tflop"] > 0 or not row["variant"]["recomputed"]


def test_gpu_step_stops_in_time_and_says_what_it_left_out(tmp_path: Path) -> None:
    out = tmp_path / "steps.json"
    assert gpu_step.main([*TINY, "--stages", "stage1", "--budget-s", "0", "--out", str(out)]) == 1
    report = json.loads(out.read_text(encoding="utf-8"))
    assert not report["rows"]
    assert any("plain transformers" in name for name in report["left_out"])


def test_gpu_step_refuses_a_variant_with_another_loss() -> None:
    base = Variant("stage2", 4)
    rows = [Row(base, [1.0], loss=2.0), Row(base, [1.0], loss=2.1), Row(Variant("stage2", 8), [1.0], loss=9.0)]
    gpu_step.require_equal_losses(rows, "bf16")
    assert [row.fault for row in rows] == [None, "loss 2.10000 instead of 2.00000", None]


def test_gpu_step_starts_nothing_that_would_not_end_in_time() -> None:
    clock = gpu_step.Clock(100)
    known = [Row(Variant("stage2", 2), [4.0, 5.0])]
    estimate = clock.estimate_s(Variant("stage2", 4, compiled=True), known, num_steps=10)
    assert estimate == pytest.approx(gpu_step.SETUP_S + gpu_step.COMPILE_S + 10 * 1.5 * 10)


def test_loss_paths_and_pairings_agree_with_their_alternatives(capsys: pytest.CaptureFixture[str]) -> None:
    loss_paths.main(["--size", "tiny", "--rounds", "1"])
    pairing_cost.main(["--size", "tiny", "--rounds", "1", "--views", "3"])
    shown = capsys.readouterr().out
    assert "losses, features and gradients agree" in shown
    assert "3 views" in shown


def test_disagreement_is_an_error() -> None:
    with pytest.raises(AssertionError, match="teacher: loss differs"):
        loss_paths.require_agreement("teacher", {"loss": torch.tensor(1.001)}, {"loss": torch.tensor(1.0)})


def test_training_step_compares_loops_with_equal_losses(capsys: pytest.CaptureFixture[str]) -> None:
    training_step.main(["--rounds", "1", "--steps", "12"])
    assert "losses equal bit for bit" in " ".join(capsys.readouterr().out.split())


def test_training_step_notices_another_loss() -> None:
    def wrong(beside: StepsBeside) -> list[float]:
        losses = training_step.our_loop(beside, 3, None)
        return [*losses[:2], losses[2] + 1e-6]

    with pytest.raises(AssertionError, match="other losses"):
        training_step.race(wrong, 3)


def test_checkpoint_is_measured_and_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint.main(["--parameters", "20000", "--rounds", "1", "--folder", str(tmp_path)])
    assert "read back equal bit for bit" in " ".join(capsys.readouterr().out.split())
    assert not list(tmp_path.iterdir())


def test_resume_of_the_loader_gives_the_samples_of_an_uninterrupted_run() -> None:
    table = loader.measure_resume(1)
    assert table.row_count == 3


def test_a_large_table_is_mapped(tmp_path: Path) -> None:
    loader.write_index(tmp_path / "index.arrow", 3 * 1000)
    assert loader.start_up(tmp_path / "index.arrow", "all_pairs").keys() == {"opened_s", "first_s", "mb", "peak_mb"}


def test_both_ways_of_scoring_questions_agree(tmp_path: Path) -> None:
    answerer = question_scoring.small_answerer(side=84, width=32, layers=2)
    question_scoring.require_same_choices(answerer, 3)
    assert question_scoring.measure_options(answerer, 1, (3,)).row_count == 2
    assert question_scoring.measure_clips(answerer, 1, tmp_path, (2,)).row_count == 2


def test_flops_are_counted_with_and_without_what_causal_attention_skips() -> None:
    def work() -> list[list[float]]:
        query = torch.ones(1, 2, 8, 4)
        torch.nn.functional.scaled_dot_product_attention(query, query, query, is_causal=True)
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
        return [[0.0]]

    _, flops = question_scoring.count_flops(work)
    one = 2 * 2 * 2 * 8 * 8 * 4
    assert flops.tolist() == [2 * one, 1.5 * one]


def test_ways_of_scoring_that_disagree_end_the_measurement() -> None:
    with pytest.raises(AssertionError, match=r"log-probabilities differ by 2\.00e-04"):
        question_scoring.require_equal([[-1.0, -2.0002]], [[-1.0, -2.0]])


@pytest.mark.slow
def test_loader_is_measured_with_real_videos(tmp_path: Path) -> None:
    pytest.importorskip("decord", reason="the video is rendered by the script that compares decoders")
    assert loader.measure_workers(tmp_path, 16, 1).row_count == 4
    assert loader.measure_growth(tmp_path, 80).row_count == 1
