"""A report as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from eval.paper_tables import paper_tables
from eval.report_tables import (
    Row,
    Table,
    all_tables,
    average_table,
    interval_text,
    measure_interval_text,
    paper_table,
    percent,
    result_table,
    value_text,
)
from eval.results import Results

CSV_HEADER = (
    *("run", "task", "mode", "measure", "value", "interval_95", "chance", "questions", "videos", "unparsed"),
    *("unreadable", "unlabelled", "unanswered"),
)

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "–": "--",
        "†": r"$\dagger$",
        "‡": r"$\ddagger$",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
    }
)


def markdown(results: Results) -> str:
    """Renders what the console shows: what is to be known of the runs, every measure, the average."""
    has_average = any(average.value is not None for run in results.runs for average in run.averages)
    return _document(results, [result_table(results), *([average_table(results)] if has_average else [])])


def markdown_document(results: Results) -> str:
    """Renders all tables."""
    return _document(results, all_tables(results))


def _document(results: Results, tables: Sequence[Table]) -> str:
    lines = ["# Results", "", *_about(results)]
    for table in tables:
        heading = [] if table.title == "Results" else [f"## {table.title}", ""]
        lines += [*heading, *_markdown_table(table), "", *(note for line in table.notes for note in (line, ""))]
    return "\n".join(lines)


def _about(results: Results) -> list[str]:
    lines = []
    for run in results.runs:
        model = str(run.identity["settings"].get("model", "unknown"))[:12]
        control = f"; a control: {', '.join(run.controls)}" if run.controls else ""
        lines.append(f"- **{_cell(run.name)}**: model {_cell(model)}{control}")
        lines += [f"  - **{_cell(warning)}**" for warning in run.warnings]
    return [*lines, ""]


def _markdown_table(table: Table) -> list[str]:
    lines = [table.header, ["---"] * len(table.header), *(_padded(row, table) for row in table.rows)]
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
    """Renders the results, the average and the paper's tables with our rows (needs the package booktabs)."""
    tables = [result_table(results), average_table(results)]
    tables += [paper_table(table, results) for table in paper_tables().tables]
    return "% needs \\usepackage{booktabs}\n\n" + "\n\n".join(map(_latex_table, tables)) + "\n"


def _latex_table(table: Table) -> str:
    width = len(table.header)
    lines = [
        rf"\multicolumn{{{width}}}{{l}}{{\textit{{{_latex(row.cells[0])}}}}} \\"
        if row.kind == "group"
        else _latex_row([*row.cells, *[""] * (width - len(row.cells))], row.kind == "ours", table.bold_columns)
        for row in table.rows
    ]
    return "\n".join(
        (
            r"\begin{table}",
            rf"\caption{{{_latex(table.title)}. {_latex(' '.join(table.notes))}}}",
            rf"\begin{{tabular}}{{{'l' * width}}}",
            r"\toprule",
            _latex_row(table.header),
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        )
    )


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
