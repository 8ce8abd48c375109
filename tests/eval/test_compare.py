"""Paired comparisons: the statistics by hand and by simulation, and what is refused."""

from __future__ import annotations

import json
from itertools import product
from math import comb
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval import compare as command
from eval import paired_differences
from eval.compare import compare
from eval.paired_differences import difference_interval, mcnemar
from eval.run_folder import read_run
from exo2ego.errors import EvaluationError
from exo2ego.intervals import Interval
from exo2ego.storage import read_jsonl, write_jsonl
from tests.conftest import RunPython
from tests.eval.result_folder import question, write_run


@pytest.mark.parametrize(("first", "second"), list(product((0, 1, 3, 8), (0, 2, 7))))
def test_mcnemar_is_the_binomial_test(first: int, second: int) -> None:
    total = first + second
    tail = sum(comb(total, k) for k in range(min(first, second) + 1)) / 2**total
    assert mcnemar(first, second) == pytest.approx(min(1.0, 2 * tail))


def test_mcnemar_equals_a_published_value_and_stands_large_counts() -> None:
    # vignette "Exact McNemar's test" of the R package exact2x2: b = 2, c = 9
    assert mcnemar(2, 9) == pytest.approx(0.06543, abs=5e-6)
    assert mcnemar(20_000, 19_000) == pytest.approx(4.2e-7, rel=0.02)  # normal approximation with continuity correction


def test_the_interval_of_equal_runs_is_nothing() -> None:
    assert difference_interval([([0.0] * 9, ["a", "b", "c"] * 3)]) == Interval(0.0, 0.0)
    assert difference_interval([([0.4] * 9, ["a"] * 9)]) == Interval(-1.0, 1.0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([-1.0, -0.5, 0.0, 1.0]), st.sampled_from("abcdef")), min_size=2, max_size=40))
def test_the_interval_is_seeded_holds_the_estimate_and_turns_round(rows: list[tuple[float, str]]) -> None:
    values, videos = [value for value, _ in rows], [video for _, video in rows]
    found = difference_interval([(values, videos)], seed=3)
    assert found == difference_interval([(values, videos)], seed=3)
    assert -1 <= found.low <= found.high <= 1
    turned = difference_interval([([-value for value in values], videos)], seed=3)
    assert turned.low == pytest.approx(-found.high, abs=1e-9)
    assert turned.high == pytest.approx(-found.low, abs=1e-9)


def coverage(videos: int, gain: float, monkeypatch: pytest.MonkeyPatch) -> float:
    """Returns how often the interval holds the true difference of two runs that depend on the video."""
    monkeypatch.setattr(paired_differences, "NUM_RESAMPLES", 600)
    generator = numpy.random.default_rng(videos)
    held, repeats = 0, 300
    for _ in range(repeats):
        sizes = numpy.maximum(1, generator.poisson(8, videos))
        shift = numpy.repeat(generator.uniform(-0.2, 0.2, videos), sizes)
        rate = numpy.repeat(generator.uniform(0.3, 0.6, videos), sizes)
        draw = generator.random(len(rate))
        other = numpy.where(generator.random(len(rate)) < 0.5, draw, generator.random(len(rate)))
        values = (draw < rate + gain + shift).astype(float) - (other < rate)
        names = numpy.repeat([f"video{number}" for number in range(videos)], sizes)
        found = difference_interval([(values.tolist(), names.tolist())], seed=1)
        held += found.low <= gain <= found.high
    return held / repeats


@pytest.mark.parametrize("videos", [5, 12, 40])
@pytest.mark.parametrize("gain", [0.0, 0.15])
def test_coverage_is_as_promised(videos: int, gain: float, monkeypatch: pytest.MonkeyPatch) -> None:
    assert coverage(videos, gain, monkeypatch) >= 0.9, "nominal .95, standard error of the simulation .013"


def test_tasks_that_share_videos_are_drawn_together() -> None:
    generator = numpy.random.default_rng(0)
    effects = generator.normal(0, 0.5, 40).clip(-1, 1).tolist()
    names = [f"v{number}" for number in range(40)]
    apart = difference_interval([(effects, names), (effects, [f"other {name}" for name in names])])
    together = difference_interval([(effects, names), (effects, names)])
    alone = difference_interval([(effects, names)])
    assert together.high - together.low == pytest.approx(alone.high - alone.low, rel=0.05)
    assert apart.high - apart.low < 0.8 * (together.high - together.low)


def test_two_runs_and_the_average(tmp_path: Path, run_python: RunPython) -> None:
    write_run(tmp_path / "a", skill=0.9, num_questions=40, seed=1)
    write_run(tmp_path / "b", skill=0.2, num_questions=40, seed=2)
    done = run_python("-m", "eval.compare", str(tmp_path / "a"), str(tmp_path / "b"))
    assert done.returncode == 0, done.stderr
    (average,) = [line for line in done.stdout.splitlines() if line.startswith("| average |")]
    assert average.endswith("| resolved |")
    found = compare(read_run(tmp_path / "a"), read_run(tmp_path / "b"))
    rows = {row.task: row for row in found.rows}
    assert len(rows) == 11
    assert rows["average"].difference == pytest.approx(
        sum(row.difference for row in found.rows if row.task != "average") / 10
    )
    assert rows["charades_ego"].measure == "option_mAP"
    turned = compare(read_run(tmp_path / "b"), read_run(tmp_path / "a"))
    for row, other in zip(found.rows, turned.rows, strict=True):
        assert row.difference == pytest.approx(-other.difference)
        assert (row.only_first, row.only_second, row.p_value) == (other.only_second, other.only_first, other.p_value)
        assert row.is_resolved == other.is_resolved
    assert compare(read_run(tmp_path / "a"), read_run(tmp_path / "b")) == found


def test_a_run_does_not_differ_from_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, tasks=["egoplan"], num_questions=20)
    assert command.main([str(tmp_path), str(tmp_path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["difference"], row["p_value"], row["is_resolved"]) == (0, 1, False)
    assert row["interval"] == {"low": 0, "high": 0}


def test_both_the_interval_and_the_test_must_speak(tmp_path: Path) -> None:
    """Five of fifty questions better and none worse, one per video: the interval leaves out 0, p is .0625."""
    asked = [question("egoplan", n, video=f"{n}.mp4", answer_index=0) for n in range(50)]
    for name, num_wrong in (("a", 0), ("b", 5)):
        write_run(tmp_path / name, questions=asked)
        rows = list(read_jsonl(tmp_path / name / "predictions.jsonl"))
        write_jsonl(
            tmp_path / name / "predictions.jsonl",
            [{**row, "option_scores": None, "predicted_index": int(n < num_wrong)} for n, row in enumerate(rows)],
        )
    (row,) = compare(read_run(tmp_path / "a"), read_run(tmp_path / "b")).rows
    assert row.interval.low > 0
    assert row.p_value == pytest.approx(0.0625)
    assert not row.is_resolved


@pytest.mark.parametrize(
    "change", [{"options": ["C", "D", "E", "F"]}, {"id": "egoplan/other"}, {"video": "x.mp4"}, {"question": "Why?"}]
)
def test_other_questions_are_refused_or_left_out(tmp_path: Path, change: dict[str, Any]) -> None:
    asked = [question("egoplan", n) for n in range(20)]
    write_run(tmp_path / "a", questions=asked)
    write_run(tmp_path / "b", questions=[*asked[:-1], {**asked[-1], **change}])
    first, second = read_run(tmp_path / "a"), read_run(tmp_path / "b")
    with pytest.raises(EvaluationError, match="asked different questions: 19 are the same"):
        compare(first, second)
    found = compare(first, second, common=True)
    assert found.rows[0].num_questions == 19
    assert found.num_left_out == (2 if "id" in change else 1)


def test_answers_of_one_run_alone_are_left_out_and_counted(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name, tasks=["egoplan"], num_questions=20)
    rows = list(read_jsonl(tmp_path / "b" / "predictions.jsonl"))
    write_jsonl(tmp_path / "b" / "predictions.jsonl", rows[:13])
    found = compare(read_run(tmp_path / "a"), read_run(tmp_path / "b"))
    assert (found.rows[0].num_questions, found.num_unpaired) == (13, 7)
    assert "7 answers are left out" in command.text(found)


def test_nothing_to_compare_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "a", tasks=["egoplan"], num_questions=5, modes=("likelihood",))
    write_run(tmp_path / "b", tasks=["egoplan"], num_questions=5, modes=("generate",))
    assert command.main([str(tmp_path / "a"), str(tmp_path / "b")]) == EvaluationError.exit_code
    assert "no labelled answers to the same questions in the same mode" in capsys.readouterr().err
    (tmp_path / "a" / "questions.jsonl").unlink()
    assert command.main([str(tmp_path / "a"), str(tmp_path / "b")]) == EvaluationError.exit_code
    assert "not known what was asked" in capsys.readouterr().err
