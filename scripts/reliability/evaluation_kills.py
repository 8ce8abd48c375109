"""Kills tiny evaluations of all of EgoBench at random, continues them, and compares them with an undisturbed one.

    OMP_NUM_THREADS=1 python -m scripts.reliability.evaluation_kills [--seed 0] [--kills 8] [--kills-of-two 4]

Eleven tables of eight datasets, built from generated raw datasets, in all three modes. SIGKILL at any time, before a
random operation on a file of the output folder, or in the middle of a line of predictions; of two processes one, or
both. A third case finds the answers to another prompt in its folder. Prints one row per case, exits with 1 where
anything differs. The nightly run, of 200: --kills 70 --kills-of-two 60.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from exo2ego.console import console
from scripts.reliability.evaluation_lives import Death, End, Life, Outcome, live, outcome
from scripts.reliability.tables import markdown
from scripts.reliability.tiny_egobench import TinyEgoBench, make_egobench

OTHER_PROMPT = "prompt=careful@1"


@dataclass(frozen=True)
class Case:
    """A kind of evaluation."""

    name: str
    num_processes: int = 1
    finds_another: bool = False
    """Whether its folder holds the answers to another prompt."""


CASES = (Case("1 process"), Case("1 process, in the place of another run", finds_another=True), Case("2 processes", 2))


@dataclass
class Row:
    """What happened to one case."""

    case: Case
    kills: dict[str, int] = field(default_factory=dict)
    """By aim, and of how many processes."""
    starts: int = 0
    runs: int = 0
    answers: int = 0
    """Of all finished runs."""
    lost: int = 0
    twice: int = 0
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class Bench:
    """What all runs are compared with."""

    bench: TinyEgoBench
    whole: Death
    expected: Outcome
    another: Path
    """A finished run with another prompt."""


def prepare(bench: TinyEgoBench, folder: Path) -> Bench:
    """Runs the evaluation undisturbed, and once with another prompt."""
    chance = random.Random(0)
    deaths = []
    for name, overrides in (("untouched", ()), ("another", (OTHER_PROMPT,))):
        arguments = bench.arguments(folder / name, *overrides)
        deaths.append(live(arguments, folder / name, 1, End("never"), chance, Life()))
        if not deaths[-1].finished:
            raise SystemExit(f"the undisturbed run ended with {deaths[-1].exit_codes}, see {folder / name}.0.log")
    expected = outcome(folder / "untouched")
    if len(expected.answers) != bench.num_answers:
        raise SystemExit(f"the undisturbed run has {len(expected.answers)} answers instead of {bench.num_answers}")
    warm = deaths[-1]  # the first one waited until everything was imported, for all others too
    return Bench(bench, warm, expected, folder / "another")


def put_to_the_test(case: Case, tested: Bench, folder: Path, kills: int, chance: random.Random) -> Row:
    """Kills runs of a case, one after the other, until it was killed often enough; compares every finished one."""
    row, began = Row(case), time.monotonic()
    ends = [End.drawn(chance) for _ in range(kills)]
    while ends and row.runs < 4 * kills + 4:
        row.runs += 1
        run = folder / f"run{row.runs}" / "model"
        run.parent.mkdir()
        if case.finds_another:
            shutil.copytree(tested.another, run)
        _run_under_fire(row, tested, run, ends, chance)
        _compare(row, tested, run)
    if ends:
        row.faults.append(f"{len(ends)} kills never came")
    row.seconds = time.monotonic() - began
    return row


def _run_under_fire(row: Row, tested: Bench, run: Path, ends: list[End], chance: random.Random) -> None:
    """Takes ends off the list until the run has finished; one that came too late is drawn anew."""
    arguments = tested.bench.arguments(run)
    while True:
        end = ends.pop() if ends else End("never")
        death = live(arguments, run, row.case.num_processes, end, chance, tested.whole.life)
        row.starts += 1
        if death.finished:
            if end.aim != "never":
                ends.insert(0, End.drawn(chance))
            return
        if end.aim == "never" or -9 not in death.exit_codes:
            row.faults.append(f"{run} ended with {death.exit_codes}, see {run}.*.log")
            return
        num_killed = 2 if row.case.num_processes == 2 and end.victims == "both" else 1
        kind = end.aim if row.case.num_processes == 1 else f"{end.aim}, {num_killed} of 2"
        row.kills[kind] = row.kills.get(kind, 0) + 1


def _compare(row: Row, tested: Bench, run: Path) -> None:
    if row.faults:
        return
    found, expected = outcome(run), tested.expected
    row.answers += len(found.answers)
    row.lost += len(expected.answers.keys() - found.answers.keys())
    row.twice += found.num_lines - len(found.answers)
    others = {"answers of the other run": [outcome(tested.another).answers]} if row.case.finds_another else {}
    differences = {
        "number of lines": (found.num_lines, expected.num_lines),
        "answers": (found.answers, expected.answers),
        "key": (found.key, expected.key),
        "questions": (found.questions, expected.questions),
        "files": (found.files, expected.files),
        **{name: (found.reports[name], expected.reports[name]) for name in expected.reports},
        "other runs": (list(found.others.values()), *(others.values() or [[]])),
    }
    row.faults += [f"{run}: {name}" for name, (one, other) in differences.items() if one != other]


def report(rows: list[Row]) -> str:
    """Returns what the documentation shows."""
    heads = ("case", "SIGKILL", "of these", "starts", "runs", "answers", "lost", "twice", "differences")
    cells: list[list[object]] = []
    for row in rows:
        kinds = "; ".join(f"{count} {kind}" for kind, count in sorted(row.kills.items()))
        numbers = [row.starts, row.runs, row.answers, row.lost, row.twice, len(row.faults)]
        cells.append([row.case.name, sum(row.kills.values()), kinds, *numbers])
    sums = [sum(int(str(row[column])) for row in cells) for column in (1, *range(3, len(heads)))]
    return markdown(heads, [*cells, ["all", sums[0], "", *sums[1:]]])


def main() -> int:
    """Runs everything and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="decides where every run is killed (default 0)")
    parser.add_argument("--kills", type=int, default=8, help="SIGKILLs per case of one process (default 8)")
    parser.add_argument("--kills-of-two", type=int, default=4, help="SIGKILLs of two processes (default 4)")
    parser.add_argument("--keep", type=Path, help="folder in which the runs stay (default: a temporary one)")
    options = parser.parse_args()
    if options.keep is not None and options.keep.exists() and any(options.keep.iterdir()):
        parser.error(f"--keep {options.keep}: holds an earlier run's files; give a folder that is new or empty")
    began = time.monotonic()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        bench = make_egobench(folder / "bench")
        console.print(f"{bench.num_tables} tables, {bench.num_questions} questions, {bench.num_answers} answers")
        tested = prepare(bench, folder)
        console.print(f"undisturbed: {tested.whole.life}", markup=False)
        for number, case in enumerate(CASES):
            place = folder / f"case{number}"
            place.mkdir()
            kills = options.kills if case.num_processes == 1 else options.kills_of_two
            rows.append(put_to_the_test(case, tested, place, kills, random.Random(f"{options.seed} {case.name}")))
            said = "; ".join(rows[-1].faults) or "no difference"
            console.print(
                f"{case.name}: {sum(rows[-1].kills.values())} kills in {rows[-1].seconds:.0f} s: {said}", markup=False
            )
    print(report(rows), flush=True)
    faults = [fault for row in rows for fault in row.faults]
    console.print(f"seed {options.seed}, {time.monotonic() - began:.0f} s, {len(faults)} differences")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
