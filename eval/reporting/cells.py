"""What the tables of a report are made of: rows of texts, and how a number becomes a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from eval.metrics.measures import Measure
from eval.metrics.scoring import TaskScore
from eval.reporting.charts import Bar
from eval.reporting.open_measures import HIGHEST_SCORE
from eval.reporting.results import Results, RunResults
from eval.reporting.run_folder import PREFERRED
from eval.tasks import TASKS
from exo2ego.intervals import Interval

ABSENT = "–"
RowKind = Literal["", "group", "ours", "control"]


@dataclass(frozen=True)
class Row:
    """One line; `group` lines have one cell, `ours` and `control` lines are this evaluation's."""

    cells: tuple[str, ...]
    kind: RowKind = ""
    bar: Bar | None = None
    """What the page draws beside the numbers."""


@dataclass(frozen=True)
class Table:
    """A titled table; "47.0 (41.3–52.8)" in a column of numbers may be set in two lines."""

    title: str
    header: tuple[str, ...]
    rows: list[Row]
    notes: tuple[str, ...] = ()
    text_columns: int = 1
    """How many columns at the left hold texts; the others hold numbers."""
    bold_columns: tuple[int, ...] = ()
    """Columns of this evaluation, in a table with one column per method."""


def percent(share: float | None, digits: int = 1) -> str:
    """Returns a fraction in percent, a dash for None."""
    return ABSENT if share is None else f"{100 * share:.{digits}f}"


def interval_text(interval: Interval | None) -> str:
    """Returns an interval of fractions in percent."""
    return ABSENT if interval is None else f"{100 * interval.low:.1f}–{100 * interval.high:.1f}"


def value_text(measure: Measure) -> str:
    """Returns a measure's value as it is printed."""
    return f"{HIGHEST_SCORE * measure.value:.2f}" if measure.name == "judge_score" else percent(measure.value)


def measure_interval_text(measure: Measure) -> str:
    """Returns a measure's interval as it is printed."""
    if measure.name == "judge_score" and measure.interval is not None:
        return f"{HIGHEST_SCORE * measure.interval.low:.2f}–{HIGHEST_SCORE * measure.interval.high:.2f}"
    return interval_text(measure.interval)


def difference_text(difference: float, interval: Interval, is_resolved: bool) -> str:
    """Returns a difference in percent with its interval; ° marks one that is not resolved."""
    mark = "" if is_resolved else "°"
    return f"{100 * difference:+.1f}{mark} ({100 * interval.low:+.1f} to {100 * interval.high:+.1f})"


def count_text(count: int, total: int) -> str:
    """Returns a count, with its share where it is not none."""
    return f"{count:,} ({100 * count / total:.1f} %)" if count and total else f"{count:,}"


def parsed_counts(score: TaskScore) -> str:
    """Returns how many answers name no single option, and their share of the answers."""
    return count_text(score.num_unparsed, score.num_questions - score.num_failed - score.num_unanswered)


def title_of(task: str) -> str:
    """Returns a task's name in the paper, or its own."""
    return TASKS[task].title if task in TASKS else task


def in_order(tasks: set[str]) -> list[str]:
    """Returns tasks in the paper's order, others behind them."""
    return [task for task in TASKS if task in tasks] + sorted(tasks - set(TASKS))


def run_head(results: Results) -> tuple[str, ...]:
    """Returns the head of the column of runs, nothing where there is one run."""
    return ("run",) if len(results.runs) > 1 else ()


def run_cell(results: Results, run: RunResults) -> tuple[str, ...]:
    """Returns a run's cell, nothing where there is one run."""
    return (run.title,) if len(results.runs) > 1 else ()


def scores_by_task(results: Results) -> list[tuple[str, list[tuple[RunResults, TaskScore]]]]:
    """Returns every task's scores, in the order of the runs and of the modes."""
    found: dict[str, list[tuple[RunResults, TaskScore]]] = {}
    for run in results.runs:
        for score in sorted(run.scores, key=lambda score: PREFERRED.index(score.mode)):
            found.setdefault(score.task, []).append((run, score))
    return [(task, found[task]) for task in in_order(set(found))]


def enumeration(names: Sequence[str]) -> str:
    """Returns names as in a sentence."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
