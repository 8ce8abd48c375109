"""The paper's numbers: against the paper's text, against each other, and beside ours."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from eval.metrics.option_ranking import chance_of
from eval.reporting.paper_comparison import paper_table
from eval.reporting.paper_tables import paper_tables
from eval.reporting.results import read_results
from eval.reporting.tables import average_table
from eval.tasks import TASKS, paper_average
from exo2ego.storage import write_json
from tests.eval.result_folder import question, write_run
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
    table = paper_table(paper_tables().table(3), read_results([tmp_path]))
    assert table.header[:6] == ("method", "encoder", "language model", "frames", "setting", "mode")
    *_, ours, chance = table.rows
    assert ours.kind == "ours"
    assert ours.cells[:6] == ("stage3", "–", "–", "16", "ZS", "likelihood")
    assert re.fullmatch(r"\d+\.\d \(\d+\.\d–\d+\.\d; 6\)", ours.cells[6]), "value, interval, number of questions"
    assert ours.cells[8] == "–", "no judge has been asked"
    assert (chance.cells[0], chance.cells[6:9]) == ("chance", ("20.0", "25.0", "–"))
    assert table.rows[1].cells == ("EgoVLP", "TS-B", "-", "16", "FT", "-", "-", "22.6†", "17.3/1.9†", "42.5", "38.7")


@pytest.mark.parametrize("number", [4, 5, 6])
def test_our_conditions_stand_there_where_the_paper_prints_none(tmp_path: Path, number: int) -> None:
    write_run(tmp_path, num_questions=20, modes=("likelihood", "generate"), skill=0.1)
    table = paper_table(paper_tables().table(number), read_results([tmp_path]))
    assert table.header[:4] == ("method", "frames", "setting", "mode")
    likelihood, generate = (row.cells for row in table.rows if row.kind == "ours")
    assert likelihood[:4] == ("stage3", "16", "ZS", "likelihood")
    assert re.fullmatch(r"generate, \d+\.\d % unparsed", generate[3])


def test_stages_read_as_the_papers_table(tmp_path: Path) -> None:
    names = ["stage 3", "baseline", "initial", "stage 2", "stage 1", "stage 3 blind"]
    for place, name in enumerate(names):
        modes = ("likelihood", "generate") if name == "stage 3" else ("likelihood",)
        write_run(tmp_path / str(place), num_questions=6, modes=modes, seed=place, blind="blind" in name)
    folders = [tmp_path / str(place) for place in range(len(names))]
    table = paper_table(paper_tables().table(15), read_results(folders, names))
    paper = ("Exo2Ego, initial", "Exo2Ego, stage 2", "Exo2Ego, stage 3")
    assert table.header == ("", *paper, "initial", "stage 1", "stage 2", "stage 3", "chance")
    assert table.bold_columns == (4, 5, 6, 7)
    modes_row = next(row for row in table.rows if row.cells[0] == "mode")
    assert modes_row.cells[4:8] == ("likelihood",) * 4, "one mode, so that stages can be compared"
    whole = paper_table(paper_tables().table(13), read_results(folders, names))
    assert whole.header[5:] == ("stage 3", "stage 3", "baseline", "initial", "stage 2", "stage 1", "chance")


def test_open_answers_stand_beside_every_mode(tmp_path: Path) -> None:
    asked = [question("egoschema", n) for n in range(6)]
    asked += [question("qaego4d_open", n, options=[], answer_index=None) for n in range(6)]
    write_run(tmp_path, questions=asked)
    said = [row["id"] for row in asked if not row["options"]]
    verdicts = [{"question_id": name, "is_correct": n < 3, "score": 4} for n, name in enumerate(said)]
    write_json(tmp_path / "judgements.json", {"judge": {"model": "j"}, "judgements": verdicts})
    table = paper_table(paper_tables().table(3), read_results([tmp_path]))
    (ours,) = (row.cells for row in table.rows if row.kind == "ours")
    assert ours[5] == "likelihood"
    assert ours[8].startswith("50.0/4.0 (")


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
    rows = {row.cells[0]: row.cells[1] for row in average_table(read_results([tmp_path])).rows}
    assert rows["Exo2Ego (paper, Table 13)"] == rows["Exo2Ego, stage 3 (paper, Table 15)"] == "55.6"
