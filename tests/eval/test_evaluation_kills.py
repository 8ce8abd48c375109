"""Evaluations of tiny EgoBench killed at random, as scripts/reliability/evaluation_kills.py does it, in small."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from scripts.reliability import evaluation_kills
from scripts.reliability import kills as training_kills
from scripts.reliability.evaluation_kills import CASES, Bench, Row, _compare, prepare, put_to_the_test, report
from scripts.reliability.tiny_egobench import make_egobench

TABLES = {
    *("egoschema", "qaego4d_close", "qaego4d_open", "egotaskqa_direct", "egotaskqa_indirect", "charades_ego"),
    *("ek100_mir", "egoplan", "vlnqa", "egomcq_inter", "egomcq_intra"),
}


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("evaluations")
    return prepare(make_egobench(folder / "bench"), folder)


@pytest.mark.parametrize("command", [evaluation_kills, training_kills])
def test_a_folder_of_an_earlier_run_is_refused(
    tmp_path: Path, command: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "case0").mkdir()
    monkeypatch.setattr("sys.argv", ["kills", "--keep", str(tmp_path)])
    with pytest.raises(SystemExit):
        command.main()
    assert "give a folder that is new or empty" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
@pytest.mark.parametrize(("case", "kills"), list(zip(CASES, (2, 1, 1), strict=True)), ids=[case.name for case in CASES])
def test_killed_at_random_until_it_is_done(tested: Bench, tmp_path: Path, case: object, kills: int) -> None:
    """No question twice, none lost, every number and every byte of the report as if nothing had happened."""
    (chosen,) = [own for own in CASES if own == case]
    row = put_to_the_test(chosen, tested, tmp_path, kills, random.Random(0))
    assert row.faults == []
    assert sum(row.kills.values()) == kills
    assert (row.lost, row.twice) == (0, 0)
    assert row.answers == row.runs * tested.bench.num_answers
    assert set(tested.bench.tables) == TABLES
    assert report([row]).splitlines()[-1].startswith(f"| all | {kills} |")


@pytest.mark.slow
def test_a_lost_a_doubled_and_a_changed_answer_would_be_found(tested: Bench) -> None:
    folder = tested.another.with_name("untouched")
    lines = (folder / "predictions.jsonl").read_bytes().splitlines(keepends=True)
    wrong = {
        "lost": lines[1:],
        "twice": [*lines, lines[0]],
        "changed": [lines[0].replace(b'"predicted_index": ', b'"predicted_index": 1'), *lines[1:]],
    }
    for name, changed in wrong.items():
        (folder / "predictions.jsonl").write_bytes(b"".join(changed))
        row = Row(CASES[0])
        _compare(row, tested, folder)
        assert row.faults, name
        assert (row.lost, row.twice) == ((name == "lost") * 1, (name == "twice") * 1)
    (folder / "predictions.jsonl").write_bytes(b"".join(lines))
    other = replace(tested, expected=replace(tested.expected, reports={"report.html": b"another clock"}))
    row = Row(CASES[0])
    _compare(row, other, folder)
    assert [fault.rpartition(": ")[2] for fault in row.faults] == ["report.html"]
