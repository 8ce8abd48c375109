"""Which questions are read: files, folders of tables, the default folder, and tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval.egobench import EgoBenchConfig
from eval.questions import DataOptions, question_files, read_questions
from eval.tasks import GROUPS, TASKS
from exo2ego.config import load_config
from exo2ego.errors import DataError, EvaluationError
from exo2ego.storage import write_jsonl
from tests.eval.evaluation_setup import question_row
from tests.shared_data import REPOSITORY


def write_tables(folder: Path, *names: str) -> Path:
    """Writes a table of one question per task, and files beside them that are none."""
    for name in names:
        write_jsonl(folder / f"{name}.jsonl", [question_row(0, id=f"{name}/0", task=name)])
    (folder / "egoschema.quality.md").write_text("not a table")
    write_jsonl(folder / "notes.jsonl", [{"text": "not a question"}])
    return folder


def tasks_of(options: DataOptions, tasks: list[str] | None) -> list[str]:
    return [question.task for question in read_questions(question_files(options, tasks), tasks)]


def test_every_table_of_the_default_folder_is_read_in_the_papers_order(tmp_path: Path) -> None:
    (tmp_path / "egobench").mkdir()
    write_tables(tmp_path / "egobench", *reversed(TASKS))
    assert tasks_of(DataOptions(root=tmp_path), None) == list(TASKS)


@pytest.mark.parametrize(
    ("tasks", "tables"),
    [
        (["egoschema", "ek100"], ["egoschema", "ek100_mir"]),
        (["ek100_mir", "ek100"], ["ek100_mir"]),
        (["egomcq", "qaego4d"], ["egomcq_inter", "egomcq_intra", "qaego4d_close", "qaego4d_open"]),
        (["egotaskqa_indirect"], ["egotaskqa_indirect"]),
        (["charades"], ["charades_ego"]),
    ],
)
def test_tasks_are_tables_and_groups(tmp_path: Path, tasks: list[str], tables: list[str]) -> None:
    write_tables(tmp_path, *TASKS)
    in_folder = DataOptions(root=tmp_path, questions=[tmp_path])
    assert tasks_of(in_folder, tasks) == tables
    files = DataOptions(root=tmp_path, questions=[tmp_path / f"{name}.jsonl" for name in TASKS])
    assert sorted(tasks_of(files, tasks)) == sorted(tables)


def test_groups_stand_for_tables_and_hide_none() -> None:
    assert {table for tables in GROUPS.values() for table in tables} <= set(TASKS)
    assert not set(GROUPS) & set(TASKS)


def test_a_table_of_ones_own_is_a_task(tmp_path: Path) -> None:
    write_tables(tmp_path, "kitchen", "egoplan")
    assert tasks_of(DataOptions(root=tmp_path, questions=[tmp_path]), ["kitchen"]) == ["kitchen"]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (["egoplan", "egoschma"], "no questions of egoschma (did you mean egoschema?)"),
        (["egoplan", "vlnqa"], "no questions of vlnqa in"),
        (["vlnqa"], "holds no table of vlnqa; it has egoplan, egoschema, notes"),
        (["egoschma"], "holds no table of egoschma (did you mean egoschema?)"),
    ],
)
def test_a_task_without_questions_is_an_error(tmp_path: Path, tasks: list[str], message: str) -> None:
    write_tables(tmp_path, "egoplan", "egoschema")
    with pytest.raises(EvaluationError) as fault:
        tasks_of(DataOptions(root=tmp_path, questions=[tmp_path]), tasks)
    assert message in str(fault.value)
    assert "docs/egobench.md" in str(fault.value)


def test_what_is_not_there_says_how_it_is_made(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"egobench: no such question file or folder; build it"):
        tasks_of(DataOptions(root=tmp_path), None)


def test_the_command_line_takes_tasks_with_commas(tmp_path: Path) -> None:
    path = REPOSITORY / "eval" / "configs" / "egobench.yaml"
    config = load_config(EgoBenchConfig, path, ["tasks=egoschema,ek100", f"data.root={tmp_path}", "modes=letter"])
    assert (config.tasks, config.modes) == (["egoschema", "ek100"], ["letter"])
    assert config.data.questions is None
