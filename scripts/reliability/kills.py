"""Kills tiny runs of every stage at random, continues them, and compares them with runs that nobody touched.

    OMP_NUM_THREADS=1 python -m scripts.reliability.kills [--seed 0] [--kills 9] [--kills-of-two 4] [--signals 2]

SIGKILL at any time, and most often inside a save: at a random time of it, or before a random one of its operations on
files (open, flush, rename, remove). With two processes one of them is killed. Then SIGTERM, SIGINT and SIGUSR1: a
checkpoint of the last step must be there, and the exit code must be 128 + N. Prints one row per stage and exits with 1
where anything differs.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from exo2ego.console import console
from scripts.reliability.lives import HEARD, Case, Death, End, Outcome, Save, live, newest_step, outcome
from scripts.reliability.tables import markdown
from tests.tiny_corpus import TinyCorpus, make_corpus
from tests.tiny_runs import run

SCHEDULE = ("epochs=1000", "max_steps=40", "checkpoint.every_steps=2", "checkpoint.keep_last=2")
DROPOUT = "lora.dropout=0.3"
PARENTS = {"stage1": "init_ego", "stage2": "stage1", "stage3": "stage2"}


def cases(parents: Path) -> list[Case]:
    """Returns every stage on one and two processes; stage 2 has its teacher, both mappers and both kinds of pairs."""

    def case(stage: str, num_processes: int, *overrides: str, label: str = "") -> Case:
        parent = [f"parent={parents / PARENTS[stage]}"] if stage in PARENTS else []
        return Case(stage, num_processes, (*SCHEDULE, *parent, *overrides), label)

    return [
        case("init_ego", 1),
        case("stage1", 1),
        case("stage2", 1, "pairing=grouped", label="grouped"),
        case("stage2", 1, "pairing=all_pairs", label="all_pairs"),
        case("stage3", 1, DROPOUT),
        case("init_ego", 2),
        case("stage1", 2),
        case("stage2", 2, "pairing=grouped", label="grouped"),
        case("stage2", 2, "pairing=all_pairs", label="all_pairs"),
        case("stage3", 2, DROPOUT),
    ]


@dataclass
class Row:
    """What happened to one case."""

    case: Case
    kills: int = 0
    in_save: int = 0
    signals: int = 0
    starts: int = 0
    lost_steps: int = 0
    runs: int = 0
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0


def put_to_the_test(
    case: Case, corpus: TinyCorpus, folder: Path, *, kills: int, signals: int, chance: random.Random
) -> Row:
    """Runs a case undisturbed and then under fire, again and again until it was killed and told to stop often enough.

    `kills` SIGKILLs and `signals` others; every run that came to its end is compared with the undisturbed one.
    """
    row, began = Row(case), time.monotonic()
    untouched = live(case, corpus, folder / "untouched", End("never"), chance, Save())
    if not untouched.finished:
        row.faults.append(f"the undisturbed run ended with {untouched.exit_codes}")
        return row
    expected = outcome(folder / "untouched")
    ends = [End.drawn(chance) for _ in range(kills)]
    ends += [End("signal", chance.randint(1, 4), chance.random(), HEARD[number % 3]) for number in range(signals)]
    chance.shuffle(ends)
    while ends:
        row.runs += 1
        _run_under_fire(row, corpus, folder / f"run{row.runs}", ends, chance, untouched.last_save)
        _compare(row, expected, folder / f"run{row.runs}")
        if row.runs > 4 * (kills + signals):
            row.faults.append(f"{len(ends)} ends never came")
            break
    row.seconds = time.monotonic() - began
    return row


def _run_under_fire(
    row: Row, corpus: TinyCorpus, run_dir: Path, ends: list[End], chance: random.Random, one_save: Save
) -> None:
    """Takes ends off the list until the run has finished; one that came too late is put back."""
    while True:
        before = newest_step(run_dir)
        end = ends.pop() if ends else End("never")
        death = live(row.case, corpus, run_dir, end, chance, one_save)
        row.starts += 1
        row.lost_steps += before - death.started_at if death.reached_a_step else 0
        if death.finished:
            if end.aim != "never":
                ends.insert(0, end if end.aim == "signal" else End.drawn(chance))
            return
        if end.aim == "signal":
            row.signals += 1
            _check_stop(row, death, run_dir, end)
        elif end.aim != "never" and -9 in death.exit_codes:
            row.kills += 1
            row.in_save += death.in_save
        else:
            row.faults.append(f"{run_dir.name} ended with {death.exit_codes}, see {run_dir}.0.log")
            return


def _check_stop(row: Row, death: Death, run_dir: Path, end: End) -> None:
    codes = {128 + end.number, 128 + 15}  # another process stops as if it had been told to terminate
    if not set(death.exit_codes) <= codes or 128 + end.number not in death.exit_codes:
        row.faults.append(f"signal {end.number}: exit codes {death.exit_codes}")
    if newest_step(run_dir) != death.last_step:
        row.faults.append(f"signal {end.number}: step {death.last_step}, checkpoint {newest_step(run_dir)}")


def _compare(row: Row, expected: Outcome, run_dir: Path) -> None:
    if row.faults:
        return
    found = outcome(run_dir)
    row.faults += [
        f"{run_dir.name}: {name}: {value} instead of {vars(expected)[name]}"
        for name, value in vars(found).items()
        if value != vars(expected)[name]
    ]


def report(rows: list[Row]) -> str:
    """Returns what the documentation shows."""
    heads = ("stage", "SIGKILL", "of them in a save", "TERM, INT, USR1", "starts", "steps lost", "runs", "differences")

    def numbers(row: Row) -> list[int]:
        return [row.kills, row.in_save, row.signals, row.starts, row.lost_steps, row.runs, len(row.faults)]

    sums = [sum(column) for column in zip(*map(numbers, rows), strict=True)]
    return markdown(heads, [*([row.case.name, *numbers(row)] for row in rows), ["all", *sums]])


def make_parents(corpus: TinyCorpus, folder: Path) -> Path:
    """Runs initialisation, stage 1 and stage 2 for two steps; returns the folder of the runs."""
    for stage in ("init_ego", "stage1", "stage2"):
        parent = [f"parent={folder / PARENTS[stage]}"] if stage in PARENTS else []
        if run(stage, corpus, folder / stage, "max_steps=2", *parent):
            raise SystemExit(f"{stage} failed")
    return folder


def main() -> int:
    """Runs everything and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="decides where every run is killed (default 0)")
    parser.add_argument("--kills", type=int, default=9, help="SIGKILLs per case of one process (default 9)")
    parser.add_argument("--kills-of-two", type=int, default=4, help="SIGKILLs per case of two processes (default 4)")
    parser.add_argument("--signals", type=int, default=2, help="other signals per case (default 2)")
    parser.add_argument("--keep", type=Path, help="folder in which the runs stay (default: a temporary one)")
    options = parser.parse_args()
    if options.keep is not None and options.keep.exists() and any(options.keep.iterdir()):
        parser.error(f"--keep {options.keep}: holds an earlier run's files; give a folder that is new or empty")
    began = time.monotonic()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        corpus = make_corpus(folder / "corpus")
        for number, case in enumerate(cases(make_parents(corpus, folder / "parents"))):
            kills = options.kills if case.num_processes == 1 else options.kills_of_two
            chance, place = random.Random(f"{options.seed} {case.name}"), folder / f"case{number}"
            place.mkdir()
            rows.append(put_to_the_test(case, corpus, place, kills=kills, signals=options.signals, chance=chance))
            last = rows[-1]
            said = "; ".join(last.faults) or "no difference"
            console.print(f"{case.name}: {last.kills} kills in {last.seconds:.0f} s: {said}", markup=False)
    print(report(rows), flush=True)
    faults = [fault for row in rows for fault in row.faults]
    console.print(f"seed {options.seed}, {time.monotonic() - began:.0f} s, {len(faults)} differences")
    return 1 if faults or any(row.lost_steps for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
