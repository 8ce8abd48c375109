"""The average of the paper's ten numbers: what its interval is made of."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from eval.reporting.results import make_results
from eval.reporting.run_folder import read_run
from exo2ego.intervals import clustered_interval
from tests.eval.result_folder import write_run


def test_the_interval_of_an_answer_mode_is_of_its_answers_alone(tmp_path: Path) -> None:
    write_run(tmp_path, num_questions=12, modes=("likelihood", "generate"))
    both = read_run(tmp_path)
    averages = make_results([both]).runs[0].averages
    assert {average.mode for average in averages} == {"likelihood", "generate"}
    for average in averages:
        rows = [row for row in both.predictions if row.mode == average.mode]
        (alone,) = make_results([dataclasses.replace(both, predictions=rows)]).runs[0].averages
        assert average.interval == alone.interval
    assert averages[0].interval != averages[1].interval


def test_all_right_leaves_room_and_holds_the_average(tmp_path: Path) -> None:
    """Ten tasks of ten questions about two videos each; the interval is neither empty nor beside the value."""
    folder = read_run(write_run(tmp_path, num_questions=10))
    right = [
        row.model_copy(
            update={
                "predicted_index": row.answer_index,
                "option_scores": [float(option == row.answer_index) for option in range(row.num_options)],
            }
        )
        for row in folder.predictions
    ]
    (average,) = make_results([dataclasses.replace(folder, predictions=right)]).runs[0].averages
    assert average.value == pytest.approx(1.0)
    assert average.interval is not None
    one_task = clustered_interval([1.0] * 10, ["a", "b"] * 5)
    assert one_task.low < average.interval.low < 0.9
    assert average.interval.high == 1.0
