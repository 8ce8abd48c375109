"""A report as one HTML page that works without network and in which data cannot act."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.reporting.cells import ABSENT, Row, Table, percent, title_of
from eval.reporting.charts import interval_bar, legend_key, radar_chart, reliability_diagram
from eval.reporting.examples import Example
from eval.reporting.paper_comparison import shown_paper_tables
from eval.reporting.paper_tables import TRANSPOSED, paper_tables
from eval.reporting.results import Results, RunResults
from eval.reporting.run_facts import run_table, shared_facts
from eval.reporting.tables import (
    average_table,
    calibration_table,
    control_table,
    part_tables,
    position_table,
    result_table,
)
from eval.tasks import radar
from exo2ego.data.prompting import LETTERS
from exo2ego.records import Question

TEMPLATES = Path(__file__).with_name("templates")
MAX_OUR_LINES = 5
SHOWN_METHODS = ("Exo2Ego", "VideoLLaMA2")
"""Of the paper, in the radar: more lines cannot be told apart."""
LONGEST_TITLE_CHARACTERS = 60
SIGNS = {"right": "✓", "wrong": "✗", "unparsed": "no option named", "unlabelled": "no label", "open": "not judged"}
"""How an outcome is told beside its colour."""
MARKS = "†‡°"
"""Behind a number; they hang over the edge of its column, so that digits stand below digits."""


def render_page(results: Results, examples: Sequence[Example], per_task: int) -> str:
    """Returns the page; its policy allows its own style and script, pictures inside it, and nothing else."""
    import jinja2

    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["in_two_lines"] = _in_two_lines
    lines = _radar_lines(results)
    papers = shown_paper_tables(results)
    shared_notes = _repeated_notes(papers)
    average, calibration, controls = average_table(results), calibration_table(results), control_table(results, "main")
    has_average = any(row.kind for row in average.rows)
    further = _grouped(result_table(results, "further"))
    sections = {"runs": "runs", "average": "average", "controls": "how much is vision", "results": "results"}
    sections |= {"paper": "beside the paper", "parts": "parts of tasks", "calibration": "calibration"}
    sections |= {"examples": "hits and misses"}
    has_calibration = calibration.rows or any(run.no_calibration for run in results.runs)
    absent = {"average": has_average, "controls": controls.rows, "paper": papers, "calibration": has_calibration}
    parts, positions = part_tables(results), position_table(results)
    absent |= {"parts": parts or positions.rows, "examples": examples}
    return environment.from_string((TEMPLATES / "report.html.j2").read_text(encoding="utf-8")).render(
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
        style=style,
        script=script,
        title=_title(results),
        sections=[(anchor, name) for anchor, name in sections.items() if absent.get(anchor, True)],
        results=results,
        facts=shared_facts(results),
        run_table=run_table(results),
        several=len(results.runs) > 1,
        overview=_grouped(result_table(results, "printed")),
        further=further,
        bar=interval_bar,
        average=average if has_average else None,
        controls=controls,
        other_controls=control_table(results, "other"),
        radar=radar_chart(lines) if lines else None,
        radar_keys=[(legend_key(number), name) for number, name in enumerate(lines)],
        papers=[_without_notes(table, shared_notes) for table in papers],
        paper_notes=shared_notes,
        paper_source=paper_tables().source,
        parts=parts,
        positions=positions,
        calibration=calibration,
        has_calibration=has_calibration,
        diagrams=_diagrams(results.runs[0]),
        examples=examples,
        per_task=per_task,
        has_frames=any(example.frames or example.fault for example in examples),
        example_tasks=list(dict.fromkeys(example.question.task for example in examples)),
        example_outcomes=sorted({example.outcome for example in examples}),
        title_of=title_of,
        span_text=_span_text,
        letters=LETTERS,
        signs=SIGNS,
    )


def _title(results: Results) -> str:
    titles = [run.title for run in results.runs]
    others = ", ".join(titles[1:])
    if len(others) > LONGEST_TITLE_CHARACTERS:
        others = f"and {len(titles) - 1} other runs" if len(titles) > 2 else "and another run"
        return f"Evaluation of {titles[0]} {others}"
    return "Evaluation of " + ", ".join(titles)


def _in_two_lines(cell: str) -> tuple[str, str, str]:
    """Takes "47.0° (41.3–52.8)" apart into the number, its mark, and what stands in the brackets."""
    number, _, rest = cell.partition(" (") if cell.endswith(")") and not cell.endswith(" %)") else (cell, "", ")")
    digits = number.rstrip(MARKS)
    return digits, number[len(digits) :], rest[:-1]


def _repeated_notes(tables: Sequence[Table]) -> list[str]:
    """Returns the notes that stand below several tables: the page shows them once."""
    counts = Counter(note for table in tables for note in table.notes)
    return [note for note, count in counts.items() if count > 1]


def _without_notes(table: Table, notes: Sequence[str]) -> Table:
    return dataclasses.replace(table, notes=tuple(note for note in table.notes if note not in notes))


def _grouped(table: Table) -> Table:
    """Returns a table of results in which task and measure are headings instead of columns."""
    places = [table.header.index("task"), table.header.index("measure")]
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in table.rows:
        groups.setdefault((row.cells[places[0]], row.cells[places[1]]), []).append(row)
    rows: list[Row] = []
    for (task, measure), found in groups.items():
        rows.append(Row((f"{title_of(task)} · {measure}" if measure != ABSENT else title_of(task),), "group"))
        rows += [dataclasses.replace(row, cells=_without(row.cells, places)) for row in found]
    return dataclasses.replace(
        table, header=_without(table.header, places), rows=rows, text_columns=table.text_columns - len(places)
    )


def _without(cells: Sequence[str], places: Sequence[int]) -> tuple[str, ...]:
    return tuple(cell for place, cell in enumerate(cells) if place not in places)


def _radar_lines(results: Results) -> dict[str, dict[str, float | None]]:
    """Returns the axes of our runs in the mode that stands for each, controls left out, and of two of the paper's."""
    ours = {
        f"{run.title}, {average.mode}": average.axes
        for run in results.runs
        for average in run.averages
        if average.mode == run.main_mode
        if not run.controls and any(value is not None for value in average.axes.values())
    }
    if not ours:
        return {}
    table = paper_tables().table(TRANSPOSED[0])
    paper = {
        f"{row.method} (paper)": radar({task: value / 100 for task, value in table.numbers(row).items()})
        for row in table.rows
        if row.method in SHOWN_METHODS
    }
    return dict(list(ours.items())[:MAX_OUR_LINES]) | paper


def _diagrams(run: RunResults) -> list[tuple[str, Any, str]]:
    return [
        (
            f"{title_of(score.task)}, {score.mode}",
            reliability_diagram(found),
            f"ECE {percent(found.error)} (by luck {percent(found.error_by_luck)}), {found.count:,} questions",
        )
        for score in run.scores
        if (found := score.calibration) is not None
    ]


def _span_text(question: Question) -> str:
    if question.start_s is None and question.end_s is None:
        return "the whole video"
    end = "its end" if question.end_s is None else f"{question.end_s:.2f} s"
    return f"{question.start_s or 0:.2f} s to {end}"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
