"""From evaluations to a table: what is averaged, what an interval is over, and how it is written down."""

from __future__ import annotations

import csv
import io
import math
import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy
import pytest

from exo2ego.config import load_config, validate_config
from exo2ego.errors import EvaluationError
from exo2ego.storage import read_json, write_json, write_jsonl
from scripts.ablations.comparing import (
    RESAMPLES,
    Answers,
    Comparison,
    compare,
    mean_over_seeds,
    over_videos,
    resampled_means,
)
from scripts.ablations.planning import Plan, Run
from scripts.ablations.running import FINISHED
from scripts.ablations.suites import BASES, BaseSet, NamedSuite, Suite
from scripts.ablations.tables import as_csv, latex, markdown, write_tables
from tests.shared_data import REPOSITORY

SUITE = NamedSuite(
    "table",
    validate_config(
        Suite,
        {
            "title": "Parts",
            "source": "Exo2Ego Table 7",
            "measure": "the average",
            "reference": "full",
            "bases": ["tiny"],
            "rows": {
                "full": {"label": "full model", "paper": 55.6},
                "without": {"label": "without_part", "paper": 53.2, "paper_tasks": {"inter": 50.0}},
                "new": {"label": "not in the paper"},
            },
        },
        "test",
    ),
)
NUM_QUESTIONS = 10
BASE_FILE = REPOSITORY / BASES / "tiny.yaml"


def evaluated(out: Path, name: str, right: dict[str, int], finished: bool = True) -> Run:
    """Writes an evaluation in which the first `right` of ten questions per task, two per video, are right."""
    output = out / name
    rows = [
        {"task": task, "mode": "likelihood", "accuracy": count / 10, "chance": 0.2} for task, count in right.items()
    ]
    write_json(output / "results.json", {"results": rows})
    write_jsonl(
        output / "predictions.jsonl",
        (
            {
                "id": f"{task}/{number}",
                "task": task,
                "mode": "likelihood",
                "predicted_index": 0 if number < count else 1,
                "answer_index": 0,
                "video": f"video{number // 2}",
            }
            for task, count in right.items()
            for number in range(NUM_QUESTIONS)
        ),
    )
    if finished:
        write_json(output / FINISHED, {"key": name, "code": {"version": "0"}})
    return Run(name, name, "eval.egobench", Path("e.yaml"), (), output, None, 0, ())


def plan_of(evaluations: dict[tuple[str, int], Run]) -> Plan:
    runs = {run.name: run for run in evaluations.values()}
    return Plan(runs, {}, {("table", row, seed): run.name for (row, seed), run in evaluations.items()})


def three_seeds(out: Path) -> Plan:
    full = ((8, 6), (7, 5), (9, 7))
    without = ((6, 4), (5, 4), (7, 4))
    made: dict[tuple[str, int], Run] = {}
    for name, counts in (("full", full), ("without", without)):
        for seed, (inter, intra) in enumerate(counts):
            made[name, seed] = evaluated(out, f"{name}{seed}", {"inter": inter, "intra": intra})
    made["new", 0] = evaluated(out, "new0", {"inter": 8, "intra": 6})
    made["new", 1] = evaluated(out, "new1", {"inter": 1, "intra": 1}, finished=False)
    return plan_of(made)


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    return compare(SUITE, three_seeds(tmp_path), "likelihood")


def test_differences_are_paired_by_seed(comparison: Comparison) -> None:
    full, without, new = comparison.rows
    assert full.mean is not None
    assert full.mean.mean == pytest.approx(70)
    assert full.mean.high == pytest.approx(70 + 4.303 * 10 / math.sqrt(3), abs=0.01)
    assert full.difference is None
    assert without.difference_by_seed == pytest.approx({0: -20, 1: -15, 2: -25})
    assert without.difference is not None
    assert without.difference.mean == pytest.approx(-20)
    assert without.difference.low == pytest.approx(-20 - 4.303 * 5 / math.sqrt(3), abs=0.01)
    assert without.question_interval is not None
    assert without.question_interval.mean == pytest.approx(-20)
    assert new.difference is not None
    assert (new.difference.mean, new.difference.low) == (pytest.approx(0), None)
    assert (without.resolved, new.resolved) == (True, False)
    assert comparison.chance == pytest.approx(20)
    assert (comparison.num_evaluations, comparison.num_finished) == (8, 7)


def test_seeds_that_share_a_run_count_once(tmp_path: Path) -> None:
    shared = evaluated(tmp_path, "shared", {"inter": 8})
    one = {("full", seed): shared for seed in range(3)}
    two = {("without", seed): evaluated(tmp_path, f"w{seed}", {"inter": 5 + seed}) for seed in range(3)}
    full, without = compare(SUITE, plan_of(one | two), "likelihood").rows
    assert full.mean is not None
    assert full.mean.low is None, "three times the same number is no spread"
    assert without.difference is not None
    assert without.difference.mean == pytest.approx(-20)
    assert without.difference.low == pytest.approx(-20 - 4.303 * 10 / math.sqrt(3), abs=0.01)


def test_equal_differences_of_all_seeds_are_not_resolved(tmp_path: Path) -> None:
    made: dict[tuple[str, int], Run] = {}
    for seed in range(3):
        made["full", seed] = evaluated(tmp_path, f"f{seed}", {"inter": 7 + seed, "intra": 10})
        made["without", seed] = evaluated(tmp_path, f"w{seed}", {"inter": 1 + seed, "intra": 2})
    without = compare(SUITE, plan_of(made), "likelihood").rows[1]
    assert without.difference is not None
    assert (without.difference.mean, without.difference.low) == (pytest.approx(-70), None)
    assert without.question_interval is not None
    assert without.question_interval.excludes_zero
    assert not without.resolved


def test_resampling_in_pieces_is_resampling_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = numpy.random.default_rng(1)
    counts = chance.integers(1, 3, (7, 2)).astype(float)
    counts[2:, 1] = 0  # so that some resamples have no question of the second task
    gains = chance.uniform(-1, 1, (7, 2)) * counts
    drawn = numpy.random.default_rng(0).integers(0, 7, (RESAMPLES, 7))
    with numpy.errstate(invalid="ignore"):
        expected = numpy.nanmean(gains[drawn].sum(1) / counts[drawn].sum(1), axis=1)
    assert resampled_means(gains, counts) == pytest.approx(expected)
    monkeypatch.setattr("scripts.ablations.comparing.DRAWS_AT_ONCE", 100)
    assert resampled_means(gains, counts) == pytest.approx(expected)


def test_resampling_many_videos_needs_little_memory() -> None:
    gains = numpy.ones((20_000, 2))
    tracemalloc.start()
    means = resampled_means(gains, gains)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert means == pytest.approx(numpy.ones(RESAMPLES))
    assert peak_bytes < 300e6  # at once: 1.9 GB


def test_an_interval_over_seeds_covers_as_often_as_it_says() -> None:
    chance = random.Random(0)
    covered = 0
    for _ in range(2000):
        estimate = mean_over_seeds([chance.gauss(3, 2) for _ in range(3)])
        assert estimate.low is not None
        assert estimate.high is not None
        covered += estimate.low <= 3 <= estimate.high
    assert 0.93 < covered / 2000 < 0.97


def test_the_interval_over_videos_is_wider_where_videos_differ() -> None:
    def answers(right: dict[str, float], per_video: int) -> Answers:
        correct = {("t", f"{video}/{n}"): (value, video) for video, value in right.items() for n in range(per_video)}
        return Answers("run", {"t": 0}, {"t": 20}, correct)

    videos = [f"v{number}" for number in range(20)]
    none = answers(dict.fromkeys(videos, 0.0), 5)
    half = over_videos([(answers({video: float(n % 2) for n, video in enumerate(videos)}, 5), none)])
    every = over_videos([(answers(dict.fromkeys(videos, 1.0), 5), none)])
    assert (every.low, every.mean, every.high) == (100, 100, 100)
    assert half.mean == pytest.approx(50)
    assert half.low is not None
    assert half.high is not None
    assert half.high - half.low == pytest.approx(2 * 1.96 * 100 * math.sqrt(0.25 / 20), rel=0.15)
    one = over_videos([(answers({"v": 1.0}, 5), answers({"v": 0.0}, 5))])
    assert (one.mean, one.low, one.high) == (100, None, None)


def test_rows_that_were_asked_different_tasks_are_not_compared(tmp_path: Path) -> None:
    runs = {
        ("full", 0): evaluated(tmp_path, "a", {"inter": 5}),
        ("without", 0): evaluated(tmp_path, "b", {"inter": 5, "intra": 5}),
    }
    with pytest.raises(EvaluationError, match=r"not scored on the same tasks \(intra\)"):
        compare(SUITE, plan_of(runs), "likelihood")
    with pytest.raises(EvaluationError, match="no task was scored in mode letter"):
        compare(SUITE, plan_of(runs), "letter")


MARKDOWN = """\
# Exo2Ego Table 7: Parts

**Not complete: 1 of 8 evaluations are still to be made.**

Paper: the average. Ours: accuracy by likelihood, averaged over the tasks below; guessing would give 20.0.

| row | paper | ours | paper: difference | ours: difference | over seeds | over videos | resolved |
| --- | --- | --- | --- | --- | --- | --- | --- |
| full model | 55.6 | 70.0 [45.2, 94.8] | reference | reference |  |  |  |
| without_part | 53.2 | 50.0 [37.6, 62.4] | −2.4 | −20.0 | [−32.4, −7.6] | [−38.3, −1.7] | yes |
| not in the paper | – | 70.0 | – | +0.0 |  | [0.0, 0.0] | no |
"""
TASKS = """\
Means over seeds by task, the paper's in brackets:

| row | inter | intra |
| --- | --- | --- |
| full model | 80.0 | 60.0 |
| without_part | 60.0 (50.0) | 40.0 |
| not in the paper | 80.0 | 60.0 |
"""
LATEX = r"""% Exo2Ego Table 7; intervals: 95 %, Student's t over seeds; star: resolved
\begin{tabular}{lrrrr}
\toprule
Row & Paper & Ours & $\Delta$ paper & $\Delta$ ours \\
\midrule
full model & 55.6 & $70.0 \pm 24.8$ &  &  \\
without\_part & 53.2 & $50.0 \pm 12.4$ & $-2.4$ & $-20.0 \pm 12.4$* \\
not in the paper & -- & $70.0$ &  & $+0.0$ \\
\bottomrule
\end{tabular}
"""


def test_the_table_is_written_as_it_was(comparison: Comparison) -> None:
    text = markdown(comparison)
    assert text.startswith(MARKDOWN)
    assert text.endswith(TASKS)
    assert "With 3 seeds the t quantile is 4.30" in text
    assert latex(comparison) == LATEX


def test_the_spreadsheet_holds_the_same_numbers(comparison: Comparison) -> None:
    full, without, new = csv.DictReader(io.StringIO(as_csv(comparison)))
    assert (full["mean"], full["difference"], full["resolved"]) == ("70.000", "", "")
    assert (without["paper_difference"], without["difference"], without["difference_high"]) == (
        *("-2.400", "-20.000"),
        "-7.579",
    )
    assert (new["paper"], new["seeds"], new["difference_low"], new["resolved"]) == ("", "1", "", "no")


def test_every_form_is_written_with_what_made_it(tmp_path: Path) -> None:
    comparison = compare(SUITE, three_seeds(tmp_path), "likelihood")
    folder = write_tables(comparison, load_config(BaseSet, BASE_FILE), BASE_FILE, tmp_path / "tables")
    names = {path.name for path in folder.iterdir()}
    assert names == {"table.md", "table.csv", "table.tex", "plot.png", "plot.svg", "results.json"}
    assert (folder / "plot.png").read_bytes().startswith(b"\x89PNG")
    results: dict[str, Any] = read_json(folder / "results.json")
    assert results["rows"]["without"]["difference_by_seed"] == pytest.approx({"0": -20, "1": -15, "2": -25})
    assert results["runs"]["full0"] == {"key": "full0", "code": {"version": "0"}}
    assert results["evaluations"] == {"planned": 8, "finished": 7}
    assert results["base"]["sha256"]
    assert results["reported_by"]["version"]


def test_runs_of_two_versions_of_the_code_are_announced(tmp_path: Path) -> None:
    plan = three_seeds(tmp_path)
    assert "versions of the code" not in markdown(compare(SUITE, plan, "likelihood"))
    write_json(tmp_path / "full1" / FINISHED, {"key": "full1", "code": {"version": "1"}})
    assert "made by 2 versions of the code" in markdown(compare(SUITE, plan, "likelihood"))


def test_nothing_finished_is_a_table_too(tmp_path: Path) -> None:
    runs = {("full", 0): evaluated(tmp_path, "a", {"inter": 5}, finished=False)}
    runs["without", 0] = evaluated(tmp_path, "b", {"inter": 5}, finished=False)
    comparison = compare(SUITE, plan_of(runs), "likelihood")
    assert "Not complete: 2 of 2" in markdown(comparison)
    assert "| full model | 55.6 | – | reference | reference |" in markdown(comparison)
    assert r"full model & 55.6 & -- &  &  \\" in latex(comparison)
