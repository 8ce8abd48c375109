"""The paper's numbers: against the paper's text, against each other, and beside ours."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from eval.option_ranking import chance_of
from eval.paper_tables import paper_tables
from eval.report_tables import average_table, paper_table
from eval.results import read_results
from eval.tasks import TASKS, paper_average
from tests.eval.result_folder import write_run
from tests.shared_data import shared_path

METHODS_BY_COLUMN = (13, 15)


def paper_text() -> str:
    return shared_path("papers/exo2ego.txt").read_text(encoding="utf-8").replace("\u00a0", " ").replace("  ", " ")


def in_words(value: str) -> str:
    return re.escape(value.replace("†", "\\dagger"))


@pytest.mark.parametrize("number", [3, 4, 5, 6])
def test_rows_stand_in_the_paper(number: int) -> None:
    text = paper_text()
    for row in paper_tables().table(number).rows:
        conditions = [row.encoder, row.language_model, row.frames, row.setting] if row.encoder else []
        cells = " ".join(map(in_words, (*conditions, *row.values)))
        assert re.search(rf"^{re.escape(row.method)}(?: \[\d+\])? {cells}$", text, re.MULTILINE), row.method


@pytest.mark.parametrize("number", METHODS_BY_COLUMN)
def test_columns_stand_in_the_paper(number: int) -> None:
    text = paper_text()
    table = paper_tables().table(number)
    start = text.index("- Metric Method" if number == 13 else "EgoBench Metric Initial")
    lines = text[start : text.index(f"Table {number}: ")].splitlines()
    for place, heading in enumerate(table.headings):
        cells = " ".join(re.escape(row.values[place]) for row in table.rows)
        assert any(re.search(rf"(?:^|\s){cells}(?: \\uparrow [\d.]+)?$", line) for line in lines), heading


def test_tables_agree_with_each_other() -> None:
    tables = paper_tables()
    whole, stages = tables.table(13), tables.table(15)
    exo2ego = whole.numbers(next(row for row in whole.rows if row.method == "Exo2Ego"))
    assert exo2ego == stages.numbers(stages.rows[-1])
    for number in (3, 4, 5, 6):
        table = tables.table(number)
        assert table.numbers(table.rows[-1]).items() <= exo2ego.items()
    assert paper_average(exo2ego) == pytest.approx(55.58)  # printed as 55.6


def test_columns_are_tasks_and_their_measures() -> None:
    for table in paper_tables().tables:
        for column in table.columns:
            task, _, names = column.partition(" ")
            assert set(names.split("/")) <= {TASKS[task].measure, *TASKS[task].also}, column


def test_our_rows_stand_beside_with_their_conditions(tmp_path: Path) -> None:
    write_run(tmp_path, num_questions=6)
    results = read_results([tmp_path])
    table = paper_table(paper_tables().table(3), results)
    assert table.header[:5] == ("method", "encoder", "language model", "frames", "setting")
    ours = table.rows[-1]
    assert ours.kind == "ours"
    assert ours.cells[:5] == ("stage3, likelihood", "–", "–", "16", "ZS")
    assert re.fullmatch(r"\d+\.\d \(\d+\.\d–\d+\.\d\)", ours.cells[5])
    assert ours.cells[7] == "–", "no judge has been asked"
    assert table.rows[1].cells == ("EgoVLP", "TS-B", "-", "16", "FT", "-", "22.6†", "17.3/1.9†", "42.5", "38.7")
    stages = paper_table(paper_tables().table(15), results)
    assert stages.header == ("", "Exo2Ego, initial", "Exo2Ego, stage 2", "Exo2Ego, stage 3", "stage3, likelihood")
    assert stages.bold_columns == (4,)


def test_option_ranks_are_not_set_beside_the_full_gallery_in_silence(tmp_path: Path) -> None:
    write_run(tmp_path, tasks=["ek100_mir"], num_questions=6)
    table = paper_table(paper_tables().table(4), read_results([tmp_path]))
    marked = [row.cells[0] for row in table.rows if any("‡" in cell for cell in row.cells)]
    assert marked == ["EgoVLP", "LAVILA-L", "EgoVLPv2"]
    note = next(note for note in table.notes if "‡" in note)
    assert "chance is 45.7 (mAP) and 59.0 (nDCG)" in note
    assert "Never compare" in note
    assert chance_of(5).average_precision == pytest.approx(0.4567, abs=1e-4)


def test_averages_of_the_paper_are_those_it_prints(tmp_path: Path) -> None:
    write_run(tmp_path, num_questions=5)
    rows = {row.cells[0]: row.cells[2] for row in average_table(read_results([tmp_path])).rows}
    assert rows["Exo2Ego (paper, Table 13)"] == rows["Exo2Ego, stage 3 (paper, Table 15)"] == "55.6"
