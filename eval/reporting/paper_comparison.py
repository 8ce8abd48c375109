"""The paper's tables with this evaluation's rows beside its own, and the conditions of each."""

from __future__ import annotations

import re
from collections.abc import Sequence

from eval.metrics.measures import Measure
from eval.reporting.cells import ABSENT, Row, Table, measure_interval_text, percent
from eval.reporting.open_measures import HIGHEST_SCORE
from eval.reporting.paper_tables import STAGES, TRANSPOSED, PaperRow, PaperTable, paper_tables
from eval.reporting.results import Results, RunResults
from eval.reporting.run_folder import PREFERRED
from eval.reporting.tables import RANKED_NOTE, label_notes
from exo2ego.records import AnswerMode

OURS_NOTE = (
    "Columns and rows of this evaluation are in bold, with the 95 % interval and the number of questions; the paper's "
    "numbers have neither. They compare only as far as the questions are the same: the paper's question files are not "
    "public, and it does not say in which mode a model answered. Open questions are generated whatever the mode."
)
CHANCE = "chance"
"""The name of the row of what guessing gives."""
STAGES_NOTE = "A run stands here by its name: initial (or init…), stage 1, stage 2, stage 3."
STAGE_NAME = re.compile(r"(init|stage[\s_-]?[123])", re.IGNORECASE)
CONDITIONS = {"encoder": "encoder", "language model": "language_model", "frames": "frames", "setting": "setting"}
"""Heads, and the attributes of a row that stand below them."""


def shown_paper_tables(results: Results) -> list[Table]:
    """Returns those of the paper's tables of which some run has a number."""
    tasks = {score.task for run in results.runs for score in run.scores if score.measures}
    return [
        paper_table(table, results)
        for table in paper_tables().tables
        if any(column.split()[0] in tasks for column in table.columns)
    ]


def paper_table(table: PaperTable, results: Results) -> Table:
    """Returns one of the paper's tables with this evaluation's models beside its own; controls have their own table."""
    title = f"Table {table.number} of the paper: {table.title}"
    is_ranked = any("option_" in column for column in table.columns)
    tasks = {column.split()[0] for column in table.columns}
    marks = [paper_tables().marks] if any("†" in value for row in table.rows for value in row.values) else []
    stages = [STAGES_NOTE] if table.number == STAGES else []
    labels = label_notes(results, tasks)
    notes = (*marks, *table.notes, *([RANKED_NOTE] if is_ranked else []), *labels, *stages, OURS_NOTE)
    ours = _our_rows(table, results)
    return (_transposed if table.number in TRANSPOSED else _row_by_row)(title, table, ours, notes)


def _row_by_row(title: str, table: PaperTable, ours: Sequence[PaperRow], notes: tuple[str, ...]) -> Table:
    shown = _shown_conditions(table.rows)
    rows: list[Row] = []
    group = ""
    for row in table.rows:
        if row.group != group:
            group = row.group
            rows.append(Row((group,), "group"))
        rows.append(Row((row.method, *(getattr(row, name) or "-" for _, name in shown), "-", *_printed(row))))
    for row in ours:
        cells = (row.method, *(getattr(row, name) for _, name in shown), row.mode, *row.values)
        rows.append(Row(cells, "" if row.method == CHANCE else "ours"))
    header = ("method", *(head for head, _ in shown), "mode", *table.headings)
    return Table(title, header, rows, notes, len(shown) + 2)


def _shown_conditions(rows: Sequence[PaperRow]) -> list[tuple[str, str]]:
    """Returns the conditions that some row has, and the number of frames in any case."""
    return [
        (head, name) for head, name in CONDITIONS.items() if name == "frames" or any(getattr(x, name) for x in rows)
    ]


def _printed(row: PaperRow) -> tuple[str, ...]:
    return tuple(value + "‡" if row.full_gallery and value != "-" else value for value in row.values)


def _transposed(title: str, table: PaperTable, ours: Sequence[PaperRow], notes: tuple[str, ...]) -> Table:
    columns = [*table.rows, *ours]
    heads = [(head, name) for head, name in _shown_conditions(columns) if name != "setting"] + [("mode", "mode")]
    rows = [Row((head, *(getattr(row, name) or "-" for row in columns))) for head, name in heads]
    rows += [Row((heading, *(_printed(row)[place] for row in columns))) for place, heading in enumerate(table.headings)]
    first = 1 + len(table.rows)
    bold = tuple(place for place, row in enumerate(ours, first) if row.method != CHANCE)
    return Table(title, ("", *(row.method for row in columns)), rows, notes, 1, bold)


def _our_rows(table: PaperTable, results: Results) -> list[PaperRow]:
    """Returns a row per model and mode with a number, and behind them what guessing gives on the same questions."""
    shown = [run for run in results.runs if not run.controls]
    pairs = [(run, mode) for run in shown for mode in PREFERRED if mode in run.modes]
    rows: list[PaperRow] = []
    chances = [ABSENT] * len(table.columns)
    for run, mode in _stages(shown) if table.number == STAGES else pairs:
        measures = [_measures(column, run, mode) for column in table.columns]
        if not any(measures):
            continue
        rows.append(_our_row(run, mode + _unparsed(table, run, mode), [_value(found) for found in measures]))
        for place, found in enumerate(measures):
            if found and found[0].chance is not None and chances[place] == ABSENT:
                chances[place] = percent(found[0].chance)
    if set(chances) != {ABSENT}:
        absent = PaperRow(method=CHANCE, values=tuple(chances))
        rows.append(absent.model_copy(update=dict.fromkeys((*CONDITIONS.values(), "mode"), ABSENT)))
    return rows


def _our_row(run: RunResults, mode: str, values: Sequence[str]) -> PaperRow:
    model = run.identity["model"] or {}
    return PaperRow(
        method=run.title,
        encoder=model.get("encoder") or ABSENT,
        language_model=model.get("language_model") or ABSENT,
        frames=run.frames or ABSENT,
        setting="ZS",
        mode=mode,
        values=tuple(values),
    )


def _stages(runs: Sequence[RunResults]) -> list[tuple[RunResults, AnswerMode]]:
    """Returns the runs that are named for a stage in its order, in one mode; where none is, all runs."""
    named = [(found[1].lower(), run) for run in runs if (found := STAGE_NAME.match(run.name))]
    chosen = [run for _, run in sorted(named, key=lambda pair: pair[0])] or list(runs)
    common = set(PREFERRED).intersection(*(run.modes for run in chosen))
    shared = next((mode for mode in PREFERRED if mode in common), None)
    return [(run, shared or run.main_mode) for run in chosen]


def _measures(column: str, run: RunResults, mode: AnswerMode) -> list[Measure]:
    task, _, names = column.partition(" ")
    score = run.score_of(task, mode)
    by_name = {measure.name: measure for measure in score.measures} if score else {}
    return [by_name[name] for name in names.split("/") if name in by_name]


def _value(found: Sequence[Measure]) -> str:
    if not found:
        return ABSENT
    text = "/".join(f"{HIGHEST_SCORE * one.value:.1f}" if "score" in one.name else percent(one.value) for one in found)
    return f"{text} ({measure_interval_text(found[0])}; {found[0].count:,})"


def _unparsed(table: PaperTable, run: RunResults, mode: AnswerMode) -> str:
    tasks = {column.split()[0] for column in table.columns}
    scores = [score for score in run.scores if score.mode == mode and score.task in tasks]
    answered = sum(score.num_questions - score.num_failed - score.num_unanswered for score in scores)
    count = sum(score.num_unparsed for score in scores)
    return f", {100 * count / answered:.1f} % unparsed" if count else ""
