"""The tables of a report, as texts in rows: every format shows the same digits because it shows these."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from eval.judge import HIGHEST_SCORE
from eval.measures import Measure
from eval.option_ranking import chance_of
from eval.paper_tables import PaperRow, PaperTable, paper_tables
from eval.results import Average, Results, RunResults
from eval.scoring import TaskScore
from eval.tasks import AVERAGED, TASKS, paper_average
from exo2ego.data.prompting import LETTERS
from exo2ego.intervals import Interval
from exo2ego.records import AnswerMode

ABSENT = "–"
RowKind = Literal["", "group", "ours", "control"]
TRANSPOSED = (13, 15)
"""Tables that the paper prints with one column per method."""
NOTES = (
    "Numbers are in percent, the judge's score is from 0 to 5. The interval is the 95 % interval clustered by video. "
    "An answer that names no single option is wrong and counted as unparsed. Questions about unreadable videos, "
    "without a public label or not yet answered are not scored.",
)
RANKED_NOTE = (
    f"mAP and nDCG of Charades-Ego and EK-100 MIR are over the few options of a question: with five options chance is "
    f"{100 * chance_of(5).average_precision:.1f} (mAP) and {100 * chance_of(5).ndcg:.1f} (nDCG). Never compare them "
    "with numbers over the full gallery (‡), for which there are `python -m eval.charades` and `python -m eval.mir`."
)
OURS_NOTE = (
    "Rows of this evaluation are in bold, with the 95 % interval; the paper's numbers have none. They compare only as "
    "far as the questions are the same: the paper's question files are not public."
)


@dataclass(frozen=True)
class Row:
    """One line; `group` lines have one cell, `ours` and `control` lines are this evaluation's."""

    cells: tuple[str, ...]
    kind: RowKind = ""


@dataclass(frozen=True)
class Table:
    """A titled table."""

    title: str
    header: tuple[str, ...]
    rows: list[Row]
    notes: tuple[str, ...] = ()
    bold_columns: tuple[int, ...] = field(default=())
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


def count_text(count: int, total: int) -> str:
    """Returns a count, with its share where it is not none."""
    return f"{count:,} ({100 * count / total:.1f} %)" if count and total else f"{count:,}"


def parsed_counts(score: TaskScore) -> str:
    """Returns how many answers name no single option, and their share of the answers."""
    return count_text(score.num_unparsed, score.num_questions - score.num_failed - score.num_unanswered)


def all_tables(results: Results) -> list[Table]:
    """Returns the tables of a report in their order."""
    ours = [
        result_table(results),
        *([average_table(results)] if any(run.averages for run in results.runs) else []),
        *shown_paper_tables(results),
        position_table(results),
    ]
    return ours + [table for table in (calibration_table(results), slice_table(results)) if table.rows]


def result_table(results: Results) -> Table:
    """Returns every measure of every run, task and mode."""
    header = (
        *("task", "mode", "questions", "videos", "measure", "value", "95 % interval", "chance"),
        *("unparsed", "unreadable", "unlabelled", "unanswered"),
    )
    rows = [
        Row((*_run_cell(results, run), *cells), "control" if run.controls else "")
        for run in results.runs
        for score in run.scores
        for cells in _measure_rows(score)
    ]
    return Table("Results", (*_run_head(results), *header), rows, (*NOTES, *_label_notes(results)))


def _label_notes(results: Results) -> list[str]:
    found = {
        f"{title_of(score.task)}: over the {score.num_scored:,} questions with a public label, of "
        f"{score.num_scored + score.num_unlabelled:,} answered."
        for run in results.runs
        for score in run.scores
        if score.num_unlabelled
    }
    return sorted(found)


def _measure_rows(score: TaskScore) -> list[tuple[str, ...]]:
    left = (score.task, score.mode)
    right = (
        parsed_counts(score),
        f"{score.num_failed:,}",
        f"{score.num_unlabelled:,}",
        f"{score.num_unanswered:,}",
    )
    if not score.measures:
        return [(*left, "0", "0", *[ABSENT] * 4, *right)]
    first = score.printed or score.measures[0]
    ordered = [first, *(measure for measure in score.measures if measure is not first)]
    return [
        (
            *left,
            f"{measure.count:,}",
            f"{score.num_videos:,}" if score.num_videos else ABSENT,
            measure.name,
            value_text(measure),
            measure_interval_text(measure),
            percent(measure.chance),
            *right,
        )
        for measure in ordered
    ]


def _run_head(results: Results) -> tuple[str, ...]:
    return ("run",) if len(results.runs) > 1 else ()


def _run_cell(results: Results, run: RunResults) -> tuple[str, ...]:
    return (run.title,) if len(results.runs) > 1 else ()


def average_table(results: Results) -> Table:
    """Returns the paper's average of ten numbers, of our runs and computed from the paper's own rows."""
    rows = [
        Row((run.title, average.mode, *_average_cells(average)), "control" if run.controls else "ours")
        for run in results.runs
        for average in run.averages
    ]
    for number in TRANSPOSED:
        table = paper_tables().table(number)
        for row in table.rows:
            value = paper_average({task: found / 100 for task, found in table.numbers(row).items()})
            rows.append(Row((f"{row.method} (paper, Table {number})", ABSENT, percent(value), ABSENT, ABSENT, "")))
    notes = (
        "The mean of ten numbers (EgoTaskQA and EgoMCQ count twice, QAEgo4D open and nDCG not at all): it gives the "
        "55.6 that the paper prints as its average. The paper's other averages are computed here from its rows.",
    )
    header = ("run", "mode", "average", "95 % interval", "chance", "missing")
    return Table("The paper's average", header, rows, notes)


def _average_cells(average: Average) -> tuple[str, ...]:
    missing = f"{len(average.missing)} of {len(AVERAGED)}: {', '.join(average.missing)}" if average.missing else ""
    return percent(average.value), interval_text(average.interval), percent(average.chance), missing


def shown_paper_tables(results: Results) -> list[Table]:
    """Returns those of the paper's tables of which some run has a number."""
    tasks = {score.task for run in results.runs for score in run.scores if score.measures}
    return [
        paper_table(table, results)
        for table in paper_tables().tables
        if any(column.split()[0] in tasks for column in table.columns)
    ]


def paper_table(table: PaperTable, results: Results) -> Table:
    """Returns one of the paper's tables with this evaluation's rows below its own."""
    title = f"Table {table.number} of the paper: {table.title}"
    is_ranked = any("option_" in column for column in table.columns)
    marks = [paper_tables().marks] if any("†" in value for row in table.rows for value in row.values) else []
    notes = (*marks, *table.notes, *([RANKED_NOTE] if is_ranked else []), OURS_NOTE)
    ours = list(_our_rows(table, results))
    if table.number in TRANSPOSED:
        return _transposed(title, table, ours, notes)
    conditions = [
        (head, name)
        for head, name in (
            ("encoder", "encoder"),
            ("language model", "language_model"),
            ("frames", "frames"),
            ("setting", "setting"),
        )
        if any(getattr(row, name) for row in table.rows)
    ]
    rows: list[Row] = []
    group = ""
    for row in table.rows:
        if row.group != group:
            group = row.group
            rows.append(Row((group,), "group"))
        rows.append(Row((row.method, *(getattr(row, name) for _, name in conditions), *_printed(row))))
    rows += [
        Row((row.method, *(getattr(row, name) for _, name in conditions), *row.values), kind) for row, kind in ours
    ]
    return Table(title, ("method", *(head for head, _ in conditions), *table.headings), rows, notes)


def _printed(row: PaperRow) -> tuple[str, ...]:
    return tuple(value + "‡" if row.full_gallery and value != "-" else value for value in row.values)


def _transposed(
    title: str, table: PaperTable, ours: Sequence[tuple[PaperRow, RowKind]], notes: tuple[str, ...]
) -> Table:
    columns = [*table.rows, *(row for row, _ in ours)]
    rows = [
        Row((head, *(getattr(row, name) or ABSENT for row in columns)))
        for head, name in (("encoder", "encoder"), ("language model", "language_model"), ("frames", "frames"))
        if any(getattr(row, name) for row in table.rows)
    ]
    rows += [Row((heading, *(_printed(row)[place] for row in columns))) for place, heading in enumerate(table.headings)]
    bold = [1 + len(table.rows) + place for place, (_, kind) in enumerate(ours) if kind == "ours"]
    return Table(title, ("", *(row.method for row in columns)), rows, notes, tuple(bold))


def _our_rows(table: PaperTable, results: Results) -> Iterable[tuple[PaperRow, RowKind]]:
    for run in results.runs:
        model = run.identity["model"] or {}
        modes: list[AnswerMode] = sorted({score.mode for score in run.scores})
        for mode in modes:
            values = tuple(_our_value(column, run, mode) for column in table.columns)
            if set(values) <= {ABSENT}:
                continue
            row = PaperRow(
                method=f"{run.title}, {mode}",
                encoder=model.get("encoder") or ABSENT,
                language_model=model.get("language_model") or ABSENT,
                frames=run.frames or ABSENT,
                setting="ZS",
                values=values,
            )
            yield row, "control" if run.controls else "ours"


def _our_value(column: str, run: RunResults, mode: AnswerMode) -> str:
    task, _, names = column.partition(" ")
    score = next((score for score in run.scores if (score.task, score.mode) == (task, mode)), None)
    by_name = {measure.name: measure for measure in score.measures} if score else {}
    found = [by_name[name] for name in names.split("/") if name in by_name]
    if not found:
        return ABSENT
    text = "/".join(f"{HIGHEST_SCORE * one.value:.1f}" if "score" in one.name else percent(one.value) for one in found)
    return f"{text} ({measure_interval_text(found[0])})"


def position_table(results: Results) -> Table:
    """Returns how often each option is true, and how often it is predicted."""
    most = max((len(score.truth_positions) for run in results.runs for score in run.scores), default=0)
    rows = []
    for run in results.runs:
        for score in run.scores:
            for name, counts in (("truth", score.truth_positions), ("prediction", score.predicted_positions)):
                if counts:
                    texts = [*(f"{count:,}" for count in counts), *[""] * (most - len(counts))]
                    rows.append(Row((*_run_cell(results, run), score.task, score.mode, name, *texts)))
    return Table("Positions", (*_run_head(results), "task", "mode", "", *LETTERS[:most]), rows)


def calibration_table(results: Results) -> Table:
    """Returns the calibration error of every task whose answers were chosen by option scores."""
    rows = [
        Row(
            (
                *_run_cell(results, run),
                score.task,
                score.mode,
                f"{found.count:,}",
                percent(score.accuracy),
                percent(found.confidence),
                percent(found.error),
                percent(found.error_by_luck),
            )
        )
        for run in results.runs
        for score in run.scores
        if (found := score.calibration) is not None
    ]
    header = (*_run_head(results), "task", "mode", "questions", "accuracy", "confidence", "ECE", "ECE by luck")
    notes = (
        "Confidence is the softmax of the option scores at the chosen option. ECE: expected calibration error over ten "
        "bins of equal width; by luck: what it would be on average if every confidence were right.",
    )
    return Table("Calibration", header, rows, notes)


def slice_table(results: Results) -> Table:
    """Returns the accuracy within parts of tasks."""
    rows = [
        Row(
            (
                *_run_cell(results, run),
                score.task,
                score.mode,
                part.dimension,
                part.value,
                f"{part.count:,}",
                percent(part.accuracy),
                interval_text(part.interval),
                percent(part.chance),
            )
        )
        for run in results.runs
        for score in run.scores
        for part in score.slices
    ]
    header = (*_run_head(results), "task", "mode", "by", "value", "questions", "accuracy", "95 % interval", "chance")
    notes = ("At the position predicted, accuracy is the share of these predictions that are right.",)
    return Table("Parts of tasks", header, rows, notes)


def title_of(task: str) -> str:
    """Returns a task's name in the paper, or its own."""
    return TASKS[task].title if task in TASKS else task
