"""A report as one HTML page that works without network and in which data cannot act."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.charts import interval_bar, radar_chart, reliability_diagram
from eval.examples import Example
from eval.measures import Measure
from eval.paper_tables import paper_tables
from eval.report_tables import (
    ABSENT,
    TRANSPOSED,
    average_table,
    calibration_table,
    measure_interval_text,
    parsed_counts,
    percent,
    position_table,
    result_table,
    shown_paper_tables,
    slice_table,
    title_of,
    value_text,
)
from eval.results import Results, RunResults
from eval.scoring import TaskScore
from eval.tasks import TASKS, radar
from exo2ego.data.prompting import LETTERS
from exo2ego.records import Question

TEMPLATES = Path(__file__).with_name("templates")
MAX_OUR_LINES = 4
SHOWN_METHODS = ("Exo2Ego", "VideoLLaMA2")
"""Of the paper, in the radar: more lines cannot be told apart."""


@dataclass(frozen=True)
class Line:
    """One row of the overview."""

    run: RunResults
    score: TaskScore
    measure: Measure | None
    is_printed: bool
    """Whether the paper prints this measure of the task."""
    value: str
    interval: str
    chance: str
    unparsed: str
    bar: str


def render_page(results: Results, examples: Sequence[Example], per_task: int) -> str:
    """Returns the page; its policy allows its own style and script, pictures inside it, and nothing else."""
    import jinja2

    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    lines = _radar_lines(results)
    papers = shown_paper_tables(results)
    has_average = any(run.averages for run in results.runs)
    calibration = calibration_table(results)
    sections = {"runs": "runs", "results": "results", "average": "average", "paper": "beside the paper"}
    sections |= {"parts": "parts of tasks", "calibration": "calibration", "examples": "hits and misses"}
    absent = {"average": has_average, "paper": papers, "calibration": calibration.rows, "examples": examples}
    return environment.from_string((TEMPLATES / "report.html.j2").read_text(encoding="utf-8")).render(
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
        style=style,
        script=script,
        title="Evaluation of " + ", ".join(run.title for run in results.runs),
        sections=[(anchor, name) for anchor, name in sections.items() if absent.get(anchor, True)],
        results=results,
        facts=_facts,
        several=len(results.runs) > 1,
        overview=_overview(results),
        notes=result_table(results).notes,
        average=average_table(results) if has_average else None,
        radar=radar_chart(lines) if lines else None,
        radar_names=list(lines),
        papers=papers,
        paper_source=paper_tables().source,
        parts=slice_table(results),
        positions=position_table(results),
        calibration=calibration,
        diagrams=_diagrams(results.runs[0]),
        examples=examples,
        per_task=per_task,
        example_tasks=sorted({example.question.task for example in examples}),
        example_outcomes=sorted({example.outcome for example in examples}),
        title_of=title_of,
        span_text=_span_text,
        letters=LETTERS,
    )


def _facts(run: RunResults) -> list[tuple[str, str]]:
    """Returns what identifies a run, for the first look."""
    settings, config, code = run.identity["settings"], run.identity["config"], run.identity["code"] or {}
    model = run.identity["model"] or {}
    judge = run.identity["judge"] or {}
    known = {
        "model": config.get("model"),
        "weights and preprocessing": str(settings.get("model", ""))[:16],
        "encoder": model.get("encoder"),
        "language model": model.get("language_model"),
        "frames": run.frames,
        "view": settings.get("view"),
        "form of the prompts": settings.get("form"),
        "prompts": ", ".join(str(settings[key]) for key in settings if key == "prompt" or key.endswith("_prompt")),
        "hash of the prompts": str(settings.get("prompt_texts", ""))[:16],
        "question files": ", ".join(f"{name} {digest[:12]}" for name, digest in run.identity["inputs"].items()),
        "judge": judge.get("model"),
        "code": " ".join(
            str(part)
            for part in (
                code.get("version"),
                str(code.get("commit") or "")[:12],
                "(modified)" * bool(code.get("modified")),
            )
            if part
        ),
    }
    return [(name, str(value)) for name, value in known.items() if value]


def _overview(results: Results) -> dict[str, list[Line]]:
    """Returns the lines of every task, so that runs and modes stand below each other."""
    scores = [(run, score) for run in results.runs for score in run.scores]
    known = [task for task in TASKS if any(score.task == task for _, score in scores)]
    others = sorted({score.task for _, score in scores} - set(known))
    return {task: _lines([pair for pair in scores if pair[1].task == task]) for task in (*known, *others)}


def _lines(scores: Sequence[tuple[RunResults, TaskScore]]) -> list[Line]:
    lines = []
    for run, score in scores:
        counts = parsed_counts(score)
        if not score.measures:
            lines.append(Line(run, score, None, True, ABSENT, ABSENT, ABSENT, counts, ""))
        first = score.printed or (score.measures[0] if score.measures else None)
        for measure in sorted(score.measures, key=lambda measure: measure is not first):
            texts = (value_text(measure), measure_interval_text(measure), percent(measure.chance))
            lines.append(Line(run, score, measure, measure is first, *texts, counts, interval_bar(measure)))
    return lines


def _radar_lines(results: Results) -> dict[str, dict[str, float | None]]:
    """Returns the axes of our runs, controls left out, and of two of the paper's rows."""
    ours = {
        f"{run.title}, {average.mode}": average.axes
        for run in results.runs
        for average in run.averages
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
            f"{score.task}, {score.mode}",
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
