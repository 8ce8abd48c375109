"""Runs ablation suites: every row of a table with several seeds, equal runs once, ending in one table per suite.

  python -m scripts.ablate --suite stages/configs/ablations/table7.yaml --base paper --dry-run
  python -m scripts.ablate --suite stages/configs/ablations/table[78].yaml --base world --seeds 0,1,2 --jobs 2

Every run is a command that you could type (--dry-run prints them). Stopped, killed or failed, the same command goes on
where it was; what is finished is never run again. Several suites in one --out folder share what they have in common."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from exo2ego.command_line import run_safely
from exo2ego.console import console
from exo2ego.errors import ConfigError

if TYPE_CHECKING:
    from scripts.ablations.planning import Plan
    from scripts.ablations.running import Launch
    from scripts.ablations.suites import BaseSet, NamedSuite


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and plans, runs or reports."""
    arguments = _parser().parse_args(argv)
    return run_safely(lambda: _act(arguments), arguments.debug)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.ablate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", type=Path, nargs="+", required=True, metavar="FILE.yaml", help="tables to make")
    parser.add_argument(
        "--base", default="paper", metavar="NAME|FILE.yaml", help="configurations that rows change (default paper)"
    )
    parser.add_argument("--seeds", default="0", metavar="0,1,2", help="seeds of every row (default 0)")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="these rows alone, and each suite's reference")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of all runs (default runs/ablations/BASE)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="commands at once (default 1)")
    parser.add_argument(
        "--launch", default="", metavar="COMMAND", help='what starts a stage, as "torchrun --nproc_per_node 8"'
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--dry-run", action="store_true", help="print the plan and every command, run nothing")
    instead.add_argument("--report", action="store_true", help="write the tables of what is finished, run nothing")
    instead.add_argument("--slurm", type=Path, metavar="DIR", help="write Slurm array files to DIR, run nothing")
    instead.add_argument("--run", metavar="NAME", help="run this one of the plan, whose parent must be finished")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    return parser


def _act(arguments: argparse.Namespace) -> int:
    from exo2ego.config import load_config
    from scripts.ablations.planning import Contents, make_plan, require_tables
    from scripts.ablations.running import Driver, run_one
    from scripts.ablations.suites import BaseSet, find_base, read_suites, require_made_for

    launch = _launch(arguments)
    suites = read_suites(arguments.suite)
    base_file = find_base(arguments.base)
    for named in suites:
        require_made_for(named, arguments.base)
    base = load_config(BaseSet, base_file)
    out = arguments.out or Path("runs/ablations") / base_file.stem
    contents = Contents()
    _require_rows(suites, arguments.rows)
    plan = make_plan(suites, base, _seeds(arguments.seeds), out, contents, arguments.rows)
    if arguments.dry_run:
        _show(plan, launch, contents.missing)
        return 0
    require_tables(contents)
    if arguments.slurm:
        from scripts.ablations.slurm import write_slurm_files

        submit = write_slurm_files(plan, arguments.slurm, out, _again(arguments, out))
        console.print(f"written: {submit}; look at it, fill in your partition, then: bash {submit}", markup=False)
        return 0
    if arguments.run:
        if arguments.run not in plan.runs:
            raise ConfigError(f"--run {arguments.run}: is no run of this plan; --dry-run lists them")
        return run_one(plan, arguments.run, out, launch).exit_code
    outcome = Driver(plan, out, launch).run() if not arguments.report else None
    _report(suites, plan, base, base_file, out)
    if outcome is None:
        return 0
    if outcome.failed or outcome.skipped:
        console.print(f"{len(outcome.failed)} runs failed, {len(outcome.skipped)} were skipped for it", markup=False)
    return outcome.exit_code


def _launch(arguments: argparse.Namespace) -> Launch:
    from scripts.ablations.running import Launch

    if arguments.jobs < 1:
        raise ConfigError(f"--jobs {arguments.jobs}: expected 1 or more")
    try:
        words = shlex.split(arguments.launch)
    except ValueError as error:
        raise ConfigError(f"--launch {arguments.launch}: cannot be split into words: {error}") from error
    starts_here = not (arguments.dry_run or arguments.report or arguments.slurm)
    if words and starts_here and shutil.which(words[0]) is None:
        raise ConfigError(f"--launch {arguments.launch}: {words[0]} is no program here: install it, or give its path")
    return Launch(tuple(words), arguments.jobs)


def _seeds(text: str) -> list[int]:
    if not all(part.strip().isdigit() for part in text.split(",")):
        raise ConfigError(f"--seeds {text}: expected whole numbers with commas between, for example 0,1,2")
    seeds = [int(part) for part in text.split(",")]
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seeds {text}: a seed is given twice")
    return seeds


def _require_rows(suites: Sequence[NamedSuite], rows: Sequence[str] | None) -> None:
    known = list(dict.fromkeys(row for named in suites for row in named.suite.rows))
    unknown = [row for row in rows or () if row not in known]
    if unknown:
        raise ConfigError(f"--rows {' '.join(unknown)}: no such row; rows: {', '.join(known)}")


def _again(arguments: argparse.Namespace, out: Path) -> list[str]:
    """Returns the command line that makes this plan once more."""
    words = ["--suite", *map(str, arguments.suite), "--base", arguments.base, "--seeds", arguments.seeds]
    words += ["--out", str(out)]
    words += ["--rows", *arguments.rows] if arguments.rows else []
    return [*words, "--launch", arguments.launch] if arguments.launch else words


def _show(plan: Plan, launch: Launch, missing: Sequence[str]) -> None:
    from scripts.ablations.running import commands, is_finished

    for run, command in zip(plan.runs.values(), commands(plan, launch), strict=True):
        state = "finished" if is_finished(run) else "to run"
        console.print(f"\n# {run.name}: {state}; for {', '.join(plan.users[run.name])}\n{command}", markup=False)
    num_rows = len({(suite, row) for suite, row, _ in plan.evaluations})
    by_step: dict[str, int] = {}
    for run in plan.runs.values():
        step = run.name.rpartition("-")[0]
        by_step[step] = by_step.get(step, 0) + 1
    counts = ", ".join(f"{count} {step}" for step, count in by_step.items())
    console.print(f"\n{num_rows} rows, {len(plan.runs)} runs: {counts}", markup=False)
    if missing:
        console.print(f"not there yet: {', '.join(missing)}; names of runs will change once they are", markup=False)


def _report(suites: Sequence[NamedSuite], plan: Plan, base: BaseSet, base_file: Path, out: Path) -> None:
    from scripts.ablations.comparing import compare
    from scripts.ablations.tables import markdown, write_tables

    for named in suites:
        comparison = compare(named, plan, base.evaluation.mode)
        folder = write_tables(comparison, base, base_file, out / "tables")
        console.print(markdown(comparison), markup=False)
        console.print(f"written: {folder}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
