"""A model beside itself without pictures or without their order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from eval import report
from eval.compare import compare
from eval.reporting.results import read_results
from eval.reporting.run_folder import read_run
from eval.reporting.tables import control_table
from exo2ego.storage import read_json
from tests.eval.result_folder import write_run

MODES = ("likelihood", "generate")


def test_vision_is_the_paired_difference_to_the_blind_run(tmp_path: Path) -> None:
    model = write_run(tmp_path / "model", num_questions=40, modes=MODES, skill=0.9)
    blind = write_run(tmp_path / "blind", num_questions=40, modes=MODES, skill=0, seed=1, blind=True)
    shuffled = write_run(tmp_path / "shuffled", num_questions=40, skill=0.85, seed=2, shuffle_frames=True)
    other = write_run(tmp_path / "other", num_questions=40, seed=3, model="qwen_vl:Qwen2-VL", view="ego_only")
    results = read_results([other, shuffled, blind, model])
    assert [run.name for run in results.runs] == ["Qwen2-VL", "stage3 (shuffled frames)", "stage3 (blind)", "stage3"]
    assert [(found.run, found.control, found.kind) for found in results.controls] == [
        ("stage3", "stage3 (shuffled frames)", "shuffled frames"),
        ("stage3", "stage3 (blind)", "blind"),
    ]
    expected = compare(read_run(model), read_run(blind)).rows
    assert results.controls[1].rows == expected
    table = control_table(results)
    assert table.header[-5:] == ("model", "blind", "vision", "shuffled", "order")
    rows = {(row.cells[0], row.cells[1]): row for row in table.rows}
    assert len(rows) == 2 * (10 + 1)
    average = next(row for row in expected if (row.task, row.mode) == ("average", "likelihood"))
    cells = rows["average", "likelihood"].cells
    assert cells[4:6] == (f"{100 * average.first:.1f}", f"{100 * average.second:.1f}")
    found = re.fullmatch(r"\+(\d+\.\d) \(\+\d+\.\d to \+\d+\.\d\)", cells[6])
    assert found, "resolved, so without a mark"
    assert float(found[1]) == pytest.approx(100 * average.difference, abs=0.051)
    assert rows["average", "generate"].cells[7:] == ("–", "–"), "shuffled frames were not asked so"
    assert all(run.warnings == [] for run in results.runs)


def test_what_chance_can_do_is_marked(tmp_path: Path) -> None:
    model = write_run(tmp_path / "model", tasks=["egoplan"], num_questions=40, skill=0.3)
    blind = write_run(tmp_path / "blind", tasks=["egoplan"], num_questions=40, skill=0.3, seed=1, blind=True)
    results = read_results([model, blind])
    (row,) = control_table(results).rows
    assert not results.controls[0].rows[0].is_resolved
    assert "° (" in row.cells[6]


@pytest.mark.parametrize("change", [{"view": "exo"}, {"num_frames": 8}, {"form": "plain"}, {"model_hash": "f" * 64}])
def test_a_control_of_another_model_stands_alone(tmp_path: Path, change: dict[str, object]) -> None:
    model = write_run(tmp_path / "model", tasks=["egoplan"], num_questions=10)
    blind = write_run(tmp_path / "blind", tasks=["egoplan"], num_questions=10, blind=True)
    description = read_json(blind / "run.json")
    description["key"] |= {name.removesuffix("_hash"): value for name, value in change.items()}
    report.write_json(blind / "run.json", description)
    results = read_results([model, blind])
    assert results.controls == []
    assert results.runs[1].warnings == ["a control without its model: give the folder of the same model as well"]


def test_every_format_shows_it(tmp_path: Path) -> None:
    model = write_run(tmp_path / "model", tasks=["egoplan"], num_questions=40, skill=0.9)
    blind = write_run(tmp_path / "blind", tasks=["egoplan"], num_questions=40, skill=0, seed=1, blind=True)
    assert report.main([str(model), str(blind), "--out", str(tmp_path / "out")]) == 0
    (found,) = read_json(tmp_path / "out" / "results.json")["controls"]
    difference = f"{100 * found['rows'][0]['difference']:+.1f}"
    assert f"| {difference} (" in (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    assert f"& {difference} (" in (tmp_path / "out" / "results.tex").read_text(encoding="utf-8")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    section = page[page.index('id="controls"') : page.index('id="results"')]
    assert f">{difference}<small>" in section
    assert 'class="blind"' in section
