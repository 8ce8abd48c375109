"""A report as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from eval.reporting.cells import Row, Table, interval_text, measure_interval_text, percent, value_text
from eval.reporting.paper_comparison import shown_paper_tables
from eval.reporting.results import Results
from eval.reporting.run_facts import run_table, shared_facts
from eval.reporting.tables import (
    average_table,
    calibration_table,
    control_table,
    part_tables,
    position_table,
    result_table,
)

CSV_HEADER = (
    *("run", "task", "mode", "measure", "value", "interval_95", "chance", "questions", "videos", "unparsed"),
    *("failed", "unlabelled", "unanswered"),
)

MAX_FLOAT_ROWS = 40
"""A LaTeX table with more rows does not fit a page."""

NARROWER = r"\ifdim\width>\textwidth\textwidth\else\width\fi"
"""The width of a LaTeX box, or that of the page where the box is wider."""
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "[": "{[}",  # after a line's end it would begin an option
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "–": "--",
        "†": r"$\dagger$",
        "‡": r"$\ddagger$",
        "°": r"$^\circ$",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
    }
)


def markdown(results: Results) -> str:
    """Renders what the console shows: what is to be known of the runs, every measure, the average."""
    return _document(results, [result_table(results), *_averages(results)])


def markdown_document(results: Results) -> str:
    """Renders all tables."""
    tables = [result_table(results), *_averages(results), *shown_paper_tables(results), *part_tables(results)]
    calibration = calibration_table(results)
    tables += [position_table(results), *([calibration] if calibration.rows or len(calibration.notes) > 1 else [])]
    return _document(results, tables)


def _averages(results: Results) -> list[Table]:
    """Returns the average and the controls, where some run has one."""
    has_average = any(average.value is not None for run in results.runs for average in run.averages)
    return [average_table(results)] * has_average + [control_table(results)] * bool(results.controls)


def _document(results: Results, tables: Sequence[Table]) -> str:
    lines = ["# Results", "", *_about(results)]
    for table in tables:
        heading = [] if table.title == "Results" else [f"## {table.title}", ""]
        lines += [*heading, *_markdown_table(table), "", *(note for line in table.notes for note in (line, ""))]
    return "\n".join(lines)


def _about(results: Results) -> list[str]:
    """Returns what identifies the runs, what is the same of all of them once, and what is wrong with them."""
    facts = "; ".join(f"{name}: {value}" for name, value in shared_facts(results).items()) or "nothing is known of it"
    titles = [run.title for run in results.runs]
    lines = [f"**{_cell(titles[0] if len(titles) == 1 else 'all runs')}**: {_cell(facts)}", ""]
    warnings = [f"- **{_cell(run.title)}: {_cell(warning)}**" for run in results.runs for warning in run.warnings]
    lines += [*warnings, ""] if warnings else []
    return lines + ([*_markdown_table(run_table(results)), ""] if len(titles) > 1 else [])


def _markdown_table(table: Table) -> list[str]:
    rules = ["---" if place < table.text_columns else "---:" for place in range(len(table.header))]
    lines = [table.header, rules, *(_padded(row, table) for row in table.rows)]
    return ["| " + " | ".join(map(_cell, line)) + " |" for line in lines]


def _padded(row: Row, table: Table) -> list[str]:
    cells = list(row.cells) + [""] * (len(table.header) - len(row.cells))
    return [
        f"**{cell}**" if cell and (row.kind in ("ours", "group") or place in table.bold_columns) else cell
        for place, cell in enumerate(cells)
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def latex(results: Results) -> str:
    """Renders the results, the average, the controls and the paper's tables with our rows."""
    tables = [result_table(results), *_averages(results), *shown_paper_tables(results)]
    head = "% needs \\usepackage{booktabs,graphicx,longtable}\n\n"
    return head + "\n\n".join(map(_latex_table, tables)) + "\n"


def _latex_table(table: Table) -> str:
    """Renders a table that is as wide as the page at most; one of many rows may run over pages."""
    width = len(table.header)
    columns = "l" * table.text_columns + "r" * (width - table.text_columns)
    caption = rf"\caption{{{_latex(table.title)}. {_latex(' '.join(table.notes))}}}"
    lines = [
        rf"\multicolumn{{{width}}}{{l}}{{\textit{{{_latex(row.cells[0])}}}}} \\"
        if row.kind == "group"
        else _latex_row([*row.cells, *[""] * (width - len(row.cells))], row.kind == "ours", table.bold_columns)
        for row in table.rows
    ]
    head = (r"\toprule", _latex_row(table.header), r"\midrule")
    if len(lines) > MAX_FLOAT_ROWS:
        before = [r"{\scriptsize", rf"\begin{{longtable}}{{{columns}}}", caption + r" \\", *head, r"\endfirsthead"]
        return "\n".join((*before, *head, r"\endhead", *lines, r"\bottomrule", r"\end{longtable}", "}"))
    before = [r"\begin{table}", r"\centering", caption, r"\resizebox{" + NARROWER + "}{!}{%"]
    body = (rf"\begin{{tabular}}{{{columns}}}", *head, *lines, r"\bottomrule", r"\end{tabular}}", r"\end{table}")
    return "\n".join((*before, *body))


def _latex_row(cells: Sequence[str], is_bold: bool = False, bold_columns: Sequence[int] = ()) -> str:
    texts = [
        rf"\textbf{{{_latex(cell)}}}" if cell and (is_bold or place in bold_columns) else _latex(cell)
        for place, cell in enumerate(cells)
    ]
    return " & ".join(texts) + r" \\"


def _latex(text: str) -> str:
    return text.replace("`", "").translate(_LATEX)


def csv_text(results: Results) -> str:
    """Renders one row per measure and average, in the digits of the other formats (percent; the judge's score of 5)."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for run in results.runs:
        for score in run.scores:
            counts = (score.num_videos, score.num_unparsed, score.num_failed, score.num_unlabelled)
            for one in score.measures:
                row = (run.title, score.task, score.mode, one.name, value_text(one), measure_interval_text(one))
                writer.writerow((*row, percent(one.chance), one.count, *counts, score.num_unanswered))
        for average in run.averages:
            shown = (percent(average.value), interval_text(average.interval), percent(average.chance))
            writer.writerow((run.title, "average", average.mode, "average", *shown, *[""] * 6))
    return stream.getvalue()
