"""A comparison as Markdown, CSV, LaTeX, JSON and a plot."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exo2ego.provenance import code_version, package_versions
from exo2ego.storage import atomic_path, hash_file, write_json, write_text
from scripts.ablations.comparing import ComparedRow, Comparison, Estimate, as_json
from scripts.ablations.suites import BaseSet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOTES = """\
Percent and percentage points. Behind a mean: its 95 % interval, Student's t over seeds. Difference: row minus reference
of the same seed; "over seeds" is Student's t over those pairs, "over videos" a bootstrap over the videos, at these
trained models. Resolved: both leave out zero. With {num_seeds} seeds the t quantile is {quantile}: a difference
must exceed {factor} standard deviations between seeds. Nothing is corrected for the number of rows.
"""
COLUMNS = (
    *("row", "label", "paper", "paper_difference", "seeds", "mean", "mean_low", "mean_high"),
    *("difference", "difference_low", "difference_high", "videos_low", "videos_high", "resolved"),
)


def write_tables(comparison: Comparison, base: BaseSet, base_file: Path, out: Path) -> Path:
    """Writes table.md, table.csv, table.tex, plot.png, plot.svg and results.json; returns their folder."""
    folder = out / comparison.name
    write_text(folder / "table.md", markdown(comparison))
    write_text(folder / "table.csv", as_csv(comparison))
    write_text(folder / "table.tex", latex(comparison))
    described = {"file": str(base_file), "sha256": hash_file(base_file), **base.model_dump(mode="json")}
    made_by = {"base": described, "reported_by": code_version(), "packages": package_versions()}
    write_json(folder / "results.json", as_json(comparison) | made_by)
    for form in ("png", "svg"):
        with atomic_path(folder / f"plot.{form}") as temporary:
            plot(comparison).savefig(temporary, format=form, dpi=160)
    return folder


def markdown(comparison: Comparison) -> str:
    """Returns the table with what it means, and the tasks behind the averages."""
    unfinished = comparison.num_evaluations - comparison.num_finished
    lines = [f"# {comparison.source}: {comparison.title}", ""]
    if unfinished:
        lines += [
            f"**Not complete: {unfinished} of {comparison.num_evaluations} evaluations are still to be made.**",
            "",
        ]
    chance = "" if comparison.chance is None else f"; guessing would give {comparison.chance:.1f}"
    ours = f"accuracy by {comparison.mode}, averaged over the tasks below"
    lines += [f"Paper: {comparison.measure}. Ours: {ours}{chance}.", ""]
    header = ("row", "paper", "ours", "paper: difference", "ours: difference", "over seeds", "over videos", "resolved")
    lines += _markdown_table(header, [_cells(row, comparison) for row in comparison.rows])
    lines += ["", _notes(comparison)]
    if len(comparison.code_versions) > 1:
        lines += [f"**The runs were made by {len(comparison.code_versions)} versions of the code (results.json).**", ""]
    lines += _task_table(comparison)
    return "\n".join(lines).rstrip() + "\n"


def _cells(row: ComparedRow, comparison: Comparison) -> list[str]:
    paper = "–" if row.paper is None else f"{row.paper:.1f}"
    ours = "–" if row.mean is None else f"{row.mean.mean:.1f} {_interval(row.mean)}".rstrip()
    if row.name == comparison.reference:
        return [row.label, paper, ours, *["reference"] * 2, *[""] * 3]
    paper_difference = _paper_difference(row, comparison)
    cells = [row.label, paper, ours, "–" if paper_difference is None else _signed(paper_difference)]
    if row.difference is None or row.question_interval is None:
        return [*cells, "–", "", "", ""]
    intervals = (_interval(row.difference), _interval(row.question_interval))
    return [*cells, _signed(row.difference.mean), *intervals, "yes" if row.resolved else "no"]


def _paper_difference(row: ComparedRow, comparison: Comparison) -> float | None:
    reference = next(other for other in comparison.rows if other.name == comparison.reference)
    if row.paper is None or reference.paper is None or row.name == comparison.reference:
        return None
    return row.paper - reference.paper


def _notes(comparison: Comparison) -> str:
    from exo2ego.intervals import student_quantile

    num_seeds = max((len({answers.run for answers in row.by_seed.values()}) for row in comparison.rows), default=0)
    if num_seeds == 0:
        return ""
    if num_seeds == 1:
        return "One seed: nothing is said about the chance of training, and no difference is resolved.\n"
    quantile = student_quantile(num_seeds - 1)
    return NOTES.format(num_seeds=num_seeds, quantile=f"{quantile:.2f}", factor=f"{quantile / num_seeds**0.5:.1f}")


def _task_table(comparison: Comparison) -> list[str]:
    tasks = sorted({task for row in comparison.rows for answers in row.by_seed.values() for task in answers.tasks})
    tasks += sorted({task for row in comparison.rows for task in row.paper_tasks} - set(tasks))
    if not tasks:
        return []
    rows = []
    for row in comparison.rows:
        means = {task: _mean([answers.tasks.get(task) for answers in row.by_seed.values()]) for task in tasks}
        rows.append([row.label, *(_beside(means[task], row.paper_tasks.get(task)) for task in tasks)])
    note = ", the paper's in brackets" if any(row.paper_tasks for row in comparison.rows) else ""
    return [f"Means over seeds by task{note}:", "", *_markdown_table(("row", *tasks), rows)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _beside(ours: float | None, paper: float | None) -> str:
    text = "–" if ours is None else f"{ours:.1f}"
    return text if paper is None else f"{text} ({paper:.1f})"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def _interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f"[{estimate.low:.1f}, {estimate.high:.1f}]".replace("-", "−")


def as_csv(comparison: Comparison) -> str:
    """Returns the table for a spreadsheet; empty cells where there is nothing."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in comparison.rows:
        mean, difference, videos = row.mean, row.difference, row.question_interval
        values: list[Any] = [row.name, row.label, row.paper, _paper_difference(row, comparison), len(row.by_seed)]
        values += [mean and mean.mean, mean and mean.low, mean and mean.high]
        values += [difference and difference.mean, difference and difference.low, difference and difference.high]
        values += [videos and videos.low, videos and videos.high]
        values.append(None if difference is None else ("yes" if row.resolved else "no"))
        writer.writerow(f"{value:.3f}" if isinstance(value, float) else value for value in values)
    return stream.getvalue()


def latex(comparison: Comparison) -> str:
    """Returns the table for a paper (needs booktabs)."""
    lines = [r"\begin{tabular}{lrrrr}", r"\toprule"]
    lines += [r"Row & Paper & Ours & $\Delta$ paper & $\Delta$ ours \\", r"\midrule"]
    for row in comparison.rows:
        paper = "--" if row.paper is None else f"{row.paper:.1f}"
        paper_difference = _paper_difference(row, comparison)
        cells = [_escaped(row.label), paper, _latex_estimate(row.mean)]
        cells += ["" if paper_difference is None else f"${paper_difference:+.1f}$"]
        cells += [_latex_estimate(row.difference, "+") if row.name != comparison.reference else ""]
        lines.append(" & ".join(cells) + ("*" if row.resolved else "") + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    comment = f"% {comparison.source}; intervals: 95 %, Student's t over seeds; star: resolved"
    return "\n".join([comment, *lines]) + "\n"


def _latex_estimate(estimate: Estimate | None, sign: str = "") -> str:
    if estimate is None:
        return "--"
    if estimate.low is None or estimate.high is None:
        return f"${estimate.mean:{sign}.1f}$"
    return rf"${estimate.mean:{sign}.1f} \pm {estimate.high - estimate.mean:.1f}$"


def _escaped(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "&%$#_{}" else letter for letter in text)


def plot(comparison: Comparison) -> Figure:
    """Returns the differences to the reference: the paper's, ours with both intervals, every seed as a point."""
    from matplotlib.figure import Figure

    rows = [row for row in comparison.rows if row.name != comparison.reference]
    figure = Figure(figsize=(7.2, 1.3 + 0.62 * len(rows)), layout="constrained")
    axis = figure.subplots()
    axis.axvline(0, color="0.6", linewidth=1)
    for height, row in enumerate(reversed(rows)):
        paper_difference = _paper_difference(row, comparison)
        if paper_difference is not None:
            axis.plot([paper_difference], [height + 0.2], "D", color="tab:orange", markersize=6)
        if row.difference is None:
            continue
        for estimate, level, width in ((row.difference, 0.0, 1.6), (row.question_interval, -0.2, 4.0)):
            if estimate is not None and estimate.low is not None and estimate.high is not None:
                color = "tab:blue" if level == 0 else "0.75"
                axis.plot([estimate.low, estimate.high], [height + level] * 2, color=color, linewidth=width)
        points = list(row.difference_by_seed.values())
        axis.plot(points, [height] * len(points), "o", color="tab:blue", markersize=3.5, alpha=0.6)
        axis.plot([row.difference.mean], [height], "s", color="tab:blue", markersize=6)
    for marker, color, label in (("D", "tab:orange", "paper"), ("s", "tab:blue", "ours, t over seeds")):
        axis.plot([], [], marker, color=color, label=label)
    axis.plot([], [], color="0.75", linewidth=4, label="ours, over videos")
    axis.set_yticks(range(len(rows)), [row.label for row in reversed(rows)])
    axis.set_ylim(-0.6, len(rows) - 0.4)
    reference = next(row.label for row in comparison.rows if row.name == comparison.reference)
    axis.set_xlabel(f"difference to “{reference}”, percentage points")
    axis.set_title(f"{comparison.source}: {comparison.title}", loc="left", fontsize=10)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure
