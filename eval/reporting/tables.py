"""The tables of a report about its own runs; every format shows the same digits because it shows these."""

from __future__ import annotations

from collections.abc import Set
from typing import Literal

from eval.metrics.measures import Measure
from eval.metrics.option_ranking import chance_of
from eval.metrics.rank_measures import RANKED
from eval.metrics.scoring import TaskScore
from eval.metrics.slices import Slice
from eval.reporting.cells import (
    ABSENT,
    Row,
    Table,
    difference_text,
    enumeration,
    interval_text,
    measure_interval_text,
    parsed_counts,
    percent,
    run_cell,
    run_head,
    scores_by_task,
    title_of,
    value_text,
)
from eval.reporting.charts import Bar
from eval.reporting.comparisons import Comparison
from eval.reporting.paper_tables import TRANSPOSED, paper_tables
from eval.reporting.results import Results, RunResults, rule_or_judge
from eval.tasks import AVERAGED, TASKS, paper_average
from exo2ego.data.prompting import LETTERS

ModeChoice = Literal["all", "main", "other"]
MeasureChoice = Literal["all", "printed", "further"]
NOTES = (
    "Numbers are in percent, the judge's score is from 0 to 5. The interval is the 95 % interval clustered by video. "
    "An answer that names no single option is wrong and counted as unparsed. Failed are questions about unreadable "
    "videos and those at which the model or its endpoint failed; they, those without a public label and those not yet "
    "answered are not scored.",
)
RANKED_NOTE = (
    f"mAP and nDCG of Charades-Ego and EK-100 MIR are over the few options of a question: with five options chance is "
    f"{100 * chance_of(5).average_precision:.1f} (mAP) and {100 * chance_of(5).ndcg:.1f} (nDCG). Never compare them "
    "with numbers over the full gallery (‡), for which there are `python -m eval.charades` and `python -m eval.mir`."
)


def result_table(results: Results, which: MeasureChoice = "all") -> Table:
    """Returns every measure, or those that the paper prints, or the others; task by task."""
    header = (
        *("task", "mode", "measure", "value", "95 % interval", "chance", "questions", "videos"),
        *("unparsed", "failed", "unlabelled", "unanswered"),
    )
    rows = [
        Row((*run_cell(results, run), *cells), "control" if run.controls else "", bar)
        for _, scores in scores_by_task(results)
        for run, score in scores
        for cells, bar in _measure_rows(score, which)
    ]
    notes = (*NOTES, *scoring_notes(results), *label_notes(results))
    return Table("Results", (*run_head(results), *header), rows, notes, len(run_head(results)) + 3)


def _measure_rows(score: TaskScore, which: MeasureChoice) -> list[tuple[tuple[str, ...], Bar | None]]:
    left = (score.task, score.mode)
    counts = (f"{score.num_failed:,}", f"{score.num_unlabelled:,}", f"{score.num_unanswered:,}")
    right = (parsed_counts(score), *counts)
    if not score.measures:
        return [] if which == "further" else [((*left, *[ABSENT] * 4, "0", "0", *right), None)]
    chosen = [one for one in _printed_first(score) if which == "all" or (which == "printed") == is_printed(score, one)]
    videos = f"{score.num_videos:,}" if score.num_videos else ABSENT
    return [
        (
            (
                *left,
                one.name,
                value_text(one),
                measure_interval_text(one),
                percent(one.chance),
                f"{one.count:,}",
                videos,
                *right,
            ),
            Bar(one.value, one.interval, one.chance),
        )
        for one in chosen
    ]


def _printed_first(score: TaskScore) -> list[Measure]:
    return sorted(score.measures, key=lambda measure: not is_printed(score, measure))


def is_printed(score: TaskScore, measure: Measure) -> bool:
    """Returns whether the paper prints this measure of the task; where there is none of these, the first stands in."""
    also = TASKS[score.task].also if score.task in TASKS else ()
    return measure is (score.printed or score.measures[0]) or measure.name in also


def scoring_notes(results: Results) -> list[str]:
    """Returns who decided what is right, task by task, and how far judge and rule agree."""
    notes, words = [], {"rule": "by rule", "judge": "by a judge", "both": "by rule and by a judge", "nobody": "not yet"}
    by_task: dict[str, set[str]] = {}
    for task, scores in scores_by_task(results):
        waiting = [(run, count) for run, score in scores if (count := num_waiting(score))]
        by_task[task] = {rule_or_judge(score) for _, score in scores if score.measures}
        if not by_task[task] and not waiting:
            by_task[task] = {"nobody"}
        for run, count in waiting:
            who = f"{title_of(task)}, {run.title}" if len(results.runs) > 1 else title_of(task)
            notes.append(
                f"{who}: {count:,} answers are not scored; they wait for `python -m eval.open_answers` or "
                "`python -m eval.judge`."
            )
    for kind, text in words.items():
        tasks = [title_of(task) for task, kinds in by_task.items() if kind in kinds]
        if tasks:
            notes.append(f"Scored {text}: {enumeration(tasks)}.")
    for run in results.runs:
        found, judge = run.judge_agreement, run.identity["judge"] or {}
        if found is not None:
            notes.append(
                f"{run.title}: the judge {judge.get('model', '')} and exact match agree on {found.num_equal:,} of "
                f"{found.count:,} answers ({percent(found.num_equal / found.count)} %); of {found.num_exact:,} exact "
                f"matches it accepts {found.num_exact_accepted:,}."
            )
    if any(task in RANKED for task in by_task):
        notes.append(RANKED_NOTE)
    return notes


def num_waiting(score: TaskScore) -> int:
    """Returns how many answers to open questions nothing has scored yet."""
    if score.measures:
        return 0
    return score.num_questions - score.num_failed - score.num_unanswered - score.num_unlabelled


def label_notes(results: Results, tasks: Set[str] | None = None) -> list[str]:
    """Returns which tasks (None: of all) are scored on a part of their questions."""
    found = {
        f"{title_of(score.task)}: over the {score.num_scored:,} questions with a public label, of "
        f"{score.num_scored + score.num_unlabelled:,} answered."
        for run in results.runs
        for score in run.scores
        if score.num_unlabelled and (tasks is None or score.task in tasks)
    }
    return sorted(found)


def average_table(results: Results) -> Table:
    """Returns the paper's average of ten numbers, of our runs and computed from the paper's own rows."""
    rows, missing = [], []
    for run in results.runs:
        for average in run.averages:
            name = f"{run.title}, {average.mode}"
            if average.missing:
                count = f"{len(average.missing)} of {len(AVERAGED)} tasks"
                missing.append(f"{name} has no average: {count} are missing ({', '.join(average.missing)}).")
                continue
            cells = (percent(average.value), interval_text(average.interval), percent(average.chance))
            kind: Literal["control", "ours"] = "control" if run.controls else "ours"
            assert average.value is not None
            rows.append(Row((name, *cells), kind, Bar(average.value, average.interval, average.chance)))
    for number in TRANSPOSED:
        table = paper_tables().table(number)
        for row in table.rows:
            value = paper_average({task: found / 100 for task, found in table.numbers(row).items()})
            bar = None if value is None else Bar(value, None, None)
            rows.append(Row((f"{row.method} (paper, Table {number})", percent(value), ABSENT, ABSENT), bar=bar))
    notes = (
        "The mean of ten numbers (EgoTaskQA and EgoMCQ count twice, QAEgo4D open and nDCG not at all): it gives the "
        "55.6 that the paper prints as its average. The paper's other averages are computed here from its rows.",
        *missing,
    )
    return Table("The paper's average", ("run and mode", "average", "95 % interval", "chance"), rows, notes)


def control_table(results: Results, which: ModeChoice = "all") -> Table:
    """Returns the models beside their controls: how much is vision, and how much the order of the frames."""
    found: dict[tuple[str, str, str], dict[str, Comparison]] = {}
    main_modes = {run.name: run.main_mode for run in results.runs}
    for control in results.controls:
        for line in control.rows:
            if which != "all" and (which == "main") != (line.mode == main_modes[control.run]):
                continue
            found.setdefault((control.run, line.mode, line.task), {}).setdefault(control.kind, line)
    runs = list(dict.fromkeys(run for run, _, _ in found))
    rows = []
    for (run, mode, task), kinds in found.items():
        blind, shuffled = kinds.get("blind"), kinds.get("shuffled frames")
        model = blind or shuffled
        assert model is not None
        cells = (title_of(task), mode, model.measure, f"{model.num_questions:,}", percent(model.first))
        drawn = (blind.second if blind else None, shuffled.second if shuffled else None)
        kind: Literal["ours", ""] = "ours" if task == "average" else ""
        bar = Bar(model.first, None, None, *drawn)
        rows.append(Row((*([run] if len(runs) > 1 else []), *cells, *_control_cells(blind, shuffled)), kind, bar))
    header = ("task", "mode", "measure", "questions", "model", "blind", "vision", "shuffled", "order")
    notes = (
        "Vision: the model minus itself on grey pictures. Order: the model minus itself on the clip's frames in "
        "another order. In brackets the 95 % interval of the paired difference, clustered by video; ° marks a "
        "difference that is not resolved: the interval holds 0, or McNemar's test does not reject at 5 %. Only "
        "questions that both answered count: numbers may differ from the results. Open questions are not in it.",
    )
    head = ("run",) if len(runs) > 1 else ()
    return Table("How much is vision", (*head, *header), rows, notes, len(head) + 3)


def _control_cells(blind: Comparison | None, shuffled: Comparison | None) -> list[str]:
    cells = []
    for line in (blind, shuffled):
        if line is None:
            cells += [ABSENT, ABSENT]
        else:
            cells += [percent(line.second), difference_text(line.difference, line.interval, line.is_resolved)]
    return cells


def position_table(results: Results) -> Table:
    """Returns how often each option is true, and how often it is predicted."""
    most = max((len(score.truth_positions) for run in results.runs for score in run.scores), default=0)
    rows = []
    for _, scores in scores_by_task(results):
        for run, score in scores:
            for name, counts in (("truth", score.truth_positions), ("prediction", score.predicted_positions)):
                if counts:
                    texts = [*(f"{count:,}" for count in counts), *[""] * (most - len(counts))]
                    rows.append(Row((*run_cell(results, run), score.task, score.mode, name, *texts)))
    head = run_head(results)
    return Table("Positions", (*head, "task", "mode", "", *LETTERS[:most]), rows, text_columns=len(head) + 3)


def calibration_table(results: Results) -> Table:
    """Returns the calibration error of every task whose answers were chosen by log-probabilities."""
    rows = [
        Row(
            (
                *run_cell(results, run),
                score.task,
                score.mode,
                f"{found.count:,}",
                percent(score.accuracy),
                percent(found.confidence),
                percent(found.error),
                percent(found.error_by_luck),
            )
        )
        for _, scores in scores_by_task(results)
        for run, score in scores
        if (found := score.calibration) is not None
    ]
    head = run_head(results)
    header = (*head, "task", "mode", "questions", "accuracy", "confidence", "ECE", "ECE by luck")
    notes = (
        "Confidence is the softmax of the option scores at the chosen option. ECE: expected calibration error over ten "
        "bins of equal width; by luck: what it would be on average if every confidence were right.",
        *(f"{run.title} has no calibration: {run.no_calibration}." for run in results.runs if run.no_calibration),
    )
    return Table("Calibration", header, rows, notes, len(head) + 2)


def part_tables(results: Results) -> list[Table]:
    """Returns the accuracy within parts of each task, the runs side by side, each in the mode that stands for it."""
    notes = (
        "Accuracy with its 95 % interval. At the position predicted, it is the share of these predictions that are "
        "right. Where runs have different numbers of questions, theirs stand in the brackets.",
    )
    found = []
    for task, scores in scores_by_task(results):
        shown = [(run, score) for run, score in scores if score.mode == run.main_mode and score.slices]
        if shown:
            header = ("part", "questions", "chance", *(f"{run.title}, {score.mode}" for run, score in shown))
            found.append(Table(f"Parts of {title_of(task)}", header, _part_rows(shown), notes))
    return found


def _part_rows(shown: list[tuple[RunResults, TaskScore]]) -> list[Row]:
    by_run = [{(part.dimension, part.value): part for part in score.slices} for _, score in shown]
    keys = dict.fromkeys(key for parts in by_run for key in parts)
    rows = []
    for dimension in dict.fromkeys(dimension for dimension, _ in keys):
        rows.append(Row((dimension,), "group"))
        for key in (key for key in keys if key[0] == dimension):
            parts = [parts.get(key) for parts in by_run]
            known = [part for part in parts if part is not None]
            is_same = len({part.count for part in known}) == 1
            count = f"{known[0].count:,}" if is_same else ABSENT
            cells = (_part_cell(part, with_count=not is_same) for part in parts)
            first = parts[0]
            bar = None if first is None else Bar(first.accuracy, first.interval, first.chance)
            rows.append(Row((key[1], count, percent(known[0].chance), *cells), bar=bar))
    return rows


def _part_cell(part: Slice | None, *, with_count: bool) -> str:
    if part is None:
        return ABSENT
    return f"{percent(part.accuracy)} ({interval_text(part.interval)}{f'; {part.count:,}' if with_count else ''})"
