"""Writes the quickstart's report: one self-contained HTML page with what was trained and what it answers."""

from __future__ import annotations

import argparse
import base64
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from eval.compare import compare
from eval.reporting.comparisons import Comparison
from eval.reporting.run_folder import read_run
from eval.tasks import TASKS
from exo2ego.command_line import run_safely
from exo2ego.console import console
from exo2ego.provenance import code_version, package_versions
from exo2ego.storage import read_json, read_jsonl, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = Path(__file__).with_name("quickstart_report.html.j2")
STAGES = ("init_ego", "stage1", "stage2", "stage3")
CONTROLS = ("control_init_ego", "control_stage3")
NUM_FRAMES_SHOWN = 4
NUM_CLIPS_SHOWN = 6


@dataclass(frozen=True)
class Evaluation:
    """One row group of the results table."""

    folder: str
    title: str
    note: str


EVALUATIONS = (
    Evaluation("init_ego", "initialisation", "x alone"),
    Evaluation("stage1_exo", "stage 1, asked about exo video", "y, the teacher"),
    Evaluation("stage1_ego", "stage 1, ego branch again", "x alone: does the shared connector drift away?"),
    Evaluation("stage2", "stage 2", "x and F(x)"),
    Evaluation("stage3", "stage 3", "x and F(x), instructions"),
    Evaluation("control_init_ego", "control for stage 2", "x alone: the steps of stages 1 and 2, on ego clips"),
    Evaluation("control_stage3", "control for stage 3", "x alone: the control, then the same instructions"),
)
EGOBENCH = "egobench_report"
"""Folder of the evaluator's own report on EgoBench, made of the generated raw datasets of held-out takes."""
COMPARISONS = (
    ("stage2", "init_ego", "what stages 1 and 2 add to initialisation"),
    ("stage2", "control_init_ego", "what they add beyond the same number of steps on ego clips alone"),
    ("stage3", "stage2", "what stage 3 adds, on the same questions in its own chat form"),
    ("stage3", "control_stage3", "the whole path against ego clips and instructions alone"),
)


def main() -> int:
    """Parses the command line and writes the page."""
    parser = argparse.ArgumentParser(prog="python -m scripts.quickstart_report", description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, metavar="DIR", help="folder of the quickstart")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    arguments = parser.parse_args()

    def act() -> int:
        page = arguments.runs / "report.html"
        write_text(page, render(arguments.runs))
        console.print(f"written: {page}")
        return 0

    return run_safely(act, arguments.debug)


def render(runs: Path) -> str:
    """Returns the page as text; every picture is inside it."""
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(TEMPLATE.read_text())
    present = [row for row in EVALUATIONS if (runs / "evaluation" / row.folder / "results.json").is_file()]
    results = {row.folder: read_json(runs / "evaluation" / row.folder / "results.json")["results"] for row in present}
    trained = [name for name in (*STAGES, *CONTROLS) if (runs / name / "run.json").is_file()]
    return template.render(
        evaluations=present,
        results=results,
        tasks=sorted({row["task"] for rows in results.values() for row in rows}),
        egobench_models=egobench_models(runs),
        comparisons=[
            {"better": better, "than": than, "text": text, "rows": paired_differences(runs, better, than)}
            for better, than, text in COMPARISONS
            if better in results and than in results
        ],
        egobench=egobench_rows(runs),
        egoit=egoit_counts(runs),
        clips=shown_clips(runs),
        clip_stats=read_json(runs / "clips" / "train" / "stats.json"),
        curves=picture(loss_curves(runs, trained)),
        freeze_tables={name: read_json(runs / name / "run.json") for name in trained},
        code=code_version(),
        packages=package_versions(),
    )


def egobench_models(runs: Path) -> list[str]:
    """Returns the names of the models in the evaluator's report, stage by stage, controls last."""
    return [run["name"] for run in read_json(runs / EGOBENCH / "results.json")["runs"]]


def egobench_rows(runs: Path) -> list[dict[str, Any]]:
    """Returns a row per task of EgoBench: the measure that the paper prints of it, by the names of the models."""
    rows: dict[str, dict[str, Any]] = {}
    for scored in read_json(runs / EGOBENCH / "results.json")["results"]:
        printed = {measure["name"]: measure for measure in scored["measures"]}.get(TASKS[scored["task"]].measure)
        if scored["mode"] == "likelihood" and printed is not None:
            row = rows.setdefault(scored["task"], {**printed, "task": scored["task"], "models": {}})
            row["models"][scored["run"]] = printed
    return list(rows.values())


def egoit_counts(runs: Path) -> dict[str, int]:
    """Returns how many conversations stage 3 learned from, by source."""
    counts: dict[str, int] = read_json(runs / "egoit" / "egoit.summary.json")["sources"]
    return counts


def paired_differences(runs: Path, better: str, than: str) -> list[Comparison]:
    """Returns per task the difference of accuracy by option likelihood on the same questions (`eval/compare.py`)."""
    first, second = (read_run(runs / "evaluation" / name) for name in (better, than))
    return [row for row in compare(first, second).rows if row.mode == "likelihood" and row.task != "average"]


def shown_clips(runs: Path) -> list[dict[str, Any]]:
    """Returns some held-out questions with both views' frames and the final model's answer."""
    from exo2ego.data.video import read_frames
    from exo2ego.records import Question

    root = runs / "egoexo4d"
    rows = read_jsonl(runs / "questions" / "questions.jsonl", "question file")
    questions = [Question.model_validate(row) for row in rows if row["task"] == "narration_inter"]
    answers = {
        row["id"]: row["predicted_index"]
        for row in read_jsonl(runs / "evaluation" / "stage3" / "predictions.jsonl", "predictions")
        if row["mode"] == "likelihood"
    }
    step = max(1, len(questions) // NUM_CLIPS_SHOWN)
    shown = []
    for question in questions[::step][:NUM_CLIPS_SHOWN]:
        views = [question.video, *question.meta["exo_videos"][:2]]
        strips = [
            _strip(read_frames(root / video, question.start_s, question.end_s, NUM_FRAMES_SHOWN, within=root))
            for video in views
        ]
        shown.append(
            {
                "strips": strips,
                "options": question.options,
                "truth": question.answer_index,
                "answer": answers.get(question.question_id),
                "take": question.question_id,
                "start_s": question.start_s,
                "end_s": question.end_s,
            }
        )
    return shown


def _strip(frames: Any) -> str:
    """Returns frames [T, H, W, 3] side by side as a PNG inside a data address."""
    import numpy
    from PIL import Image

    return _data_address(Image.fromarray(numpy.concatenate(list(frames), axis=1)))


def loss_curves(runs: Path, trained: Sequence[str]) -> Figure:
    """Returns the smoothed losses of every run, one panel each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(trained), 2.9), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(trained), squeeze=False)[0], trained, strict=True):
        rows = list(read_jsonl(runs / name / "metrics.jsonl", "metrics"))
        for key in [key for key in rows[0] if key.startswith("loss/")]:
            values = [row[key] for row in rows]
            axis.plot([row["step"] for row in rows], smoothed(values), label=key.removeprefix("loss/"))
        axis.set(title=name, xlabel="step", ylim=(0, None))
        axis.legend(frameon=False)
    return figure


def smoothed(values: Sequence[float], weight: float = 0.95) -> list[float]:
    """Returns the exponential moving average, unbiased at the start."""
    result, total, share = [], 0.0, 0.0
    for value in values:
        total = weight * total + (1 - weight) * value
        share = weight * share + (1 - weight)
        result.append(total / share)
    return result


def picture(figure: Figure) -> str:
    """Returns a figure as an SVG inside a data address."""
    stream = io.BytesIO()
    figure.savefig(stream, format="svg")
    return "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode()


def _data_address(image: Any) -> str:
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


if __name__ == "__main__":
    sys.exit(main())
