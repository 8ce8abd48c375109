"""The measurements of answering and of its metrics run at a small size and stop where a result is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.bench import gpu_scoring, read_ahead, retrieval_metrics


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_retrieval_metrics_are_those_of_the_plain_formulas(dtype: str) -> None:
    assert retrieval_metrics.measure(60, 25, 1, dtype).row_count == 3


def test_metrics_that_differ_end_the_measurement() -> None:
    with pytest.raises(AssertionError, match=r"the metrics differ by 2\.0e-12"):
        retrieval_metrics.require_equal([0.5, 0.5 + 2e-12], [0.5, 0.5])
    with pytest.raises(AssertionError, match="differ by nan"):
        retrieval_metrics.require_equal([float("nan")], [0.5])


def test_what_is_made_for_a_gpu_runs_without_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report.json"
    small = ["--size", "tiny", "--device", "cpu", "--precision", "fp32", "--rounds", "1", "--out", str(report)]
    gpu_scoring.main(small)
    rows = json.loads(report.read_text(encoding="utf-8"))["rows"]
    assert [row["what"] for row in rows] == [
        "letters, 1 per clip",
        "letters, 8 per clip",
        "5 options, encoded clip",
        "10 options, encoded clip",
    ]
    assert all(row["difference"] <= 1e-4 and row["questions_per_s"] > 0 for row in rows)
    texts = [row["flops"] for row in rows[2:]]
    assert texts[1] > texts[0] > 0, "five more options are more tokens"
    assert "letters" in capsys.readouterr().out


def test_clips_are_read_ahead_of_a_model_that_waits(tmp_path: Path) -> None:
    assert read_ahead.measure(tmp_path, 2, threads=(0, 2)).row_count == len(read_ahead.MODEL_OF_DECODING)
