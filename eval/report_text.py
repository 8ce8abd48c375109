"""A report as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from eval.report_tables import Row, Table, all_tables, average_table, paper_table, result_table
from eval.results import Results
from eval.paper_tables import paper_tables

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
    """Renders all tables, after what is to be known of the runs."""
    lines = ["# Results", "", *_about(results)]
    for table in all_tables(results):
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
    lines = [rf"\multicolumn{{{width}}}{{l}}{{\textit{{{_latex(row.cells[0])}}}}} \\" if row.kind == "group"
             else _latex_row(_padded_plain(row, width), row.kind == "ours", table.bold_columns) for row in table.rows]
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


def _padded_plain(row: Row, width: int) -> list[str]:
    return [*row.cells, *[""] * (width - len(row.cells))]


def _latex_row(cells: Sequence[str], is_bold: bool = False, bold_columns: Sequence[int] = ()) -> str:
    texts = [
        rf"\textbf{{{_latex(cell)}}}" if cell and (is_bold or place in bold_columns) else _latex(cell)
        for place, cell in enumerate(cells)
    ]
    return " & ".join(texts) + r" \\"


def _latex(text: str) -> str:
    return text.replace("`", "").translate(_LATEX)


def csv_text(results: Results) -> str:
    """Renders the measures, one row each, and the averages, in the digits of the other formats."""
    found = result_table(Results(results.runs))
    header = list(found.header) if len(results.runs) > 1 else ["run", *found.header]
    rows = [list(row.cells) if len(results.runs) > 1 else [results.runs[0].title, *row.cells] for row in found.rows]
    place = {name: number for number, name in enumerate(header)}
    for run in results.runs:
        for average in run.averages:
            if average.value is None:
                continue
            line = [""] * len(header)
            cells = dict(zip(("95 % interval",), ("",), strict=True))
            line[place["run"]], line[place["task"]], line[place["mode"]] = run.title, "average", average.mode
            rows.append(line)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return stream.getvalue()
