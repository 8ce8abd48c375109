"""The results of one or several evaluations as one object, from which every file and page of a report is made.

It holds no clock and no place on a disk: scoring the same files again gives the same bytes.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import exo2ego
from eval.metrics.scoring import TaskScore, printed_values, score
from eval.reporting.controls import ControlComparison, compare_controls
from eval.reporting.open_measures import JudgeAgreement, judge_agreement, judge_of, open_measures
from eval.reporting.run_folder import PREFERRED, RunFolder, read_run
from eval.reporting.run_names import controls_of, names_of, titled
from eval.tasks import AVERAGED, TASKS, paper_average, radar
from exo2ego.data.prompting import normal_form
from exo2ego.errors import ConfigError
from exo2ego.intervals import Interval, average_interval
from exo2ego.records import AnswerMode
from exo2ego.storage import hash_text

PLACES = ("output", "data", "data_root")
"""Keys of the configuration that say where files lie and nothing about the numbers."""


@dataclass(frozen=True)
class Average:
    """The mean of the paper's ten numbers in one answer mode (`eval/tasks.py`)."""

    mode: AnswerMode
    value: float | None
    """None where a task is missing: fewer numbers are not comparable."""
    interval: Interval | None
    chance: float | None
    missing: list[str]
    axes: dict[str, float | None]
    """The axes of Figure 1."""


@dataclass(frozen=True)
class RunResults:
    """What one output folder comes to."""

    name: str
    controls: list[str]
    """Why its numbers are a control and not a model's: blind, shuffled frames."""
    identity: dict[str, Any]
    """Model, data, prompts, code and settings."""
    warnings: list[str]
    no_calibration: str
    """Why confidence cannot be made of its option scores; empty where it can."""
    judge_agreement: JudgeAgreement | None
    scores: list[TaskScore]
    averages: list[Average]

    @property
    def title(self) -> str:
        """Returns the name, with what kind of control it is."""
        return titled(self.name, self.controls)

    @property
    def main_mode(self) -> AnswerMode:
        """Returns the answer mode that stands for the run where there is room for one."""
        return next((mode for mode in PREFERRED if mode in self.modes), PREFERRED[0])

    @property
    def modes(self) -> set[AnswerMode]:
        """Returns the modes in which it answered questions with options; where there are none such, all."""
        with_options = {score.mode for score in self.scores if score.truth_positions}
        return with_options or {score.mode for score in self.scores}

    def score_of(self, task: str, mode: AnswerMode) -> TaskScore | None:
        """Returns the score of a task in a mode; open questions are generated whatever the mode of the others is."""
        found = {score.mode: score for score in self.scores if score.task == task}
        is_open = not any(score.truth_positions for score in found.values())
        return found.get(mode, found.get("generate") if is_open else None)

    @property
    def frames(self) -> str:
        """Returns the number of frames per clip, empty where it is not known."""
        found = self.identity["settings"].get("num_frames")
        return "" if found is None else str(found)


@dataclass(frozen=True)
class Results:
    """One or several runs."""

    runs: list[RunResults]
    controls: list[ControlComparison]

    def to_json(self) -> dict[str, Any]:
        """Returns the content of results.json: the runs, under `results` every task's score, and the controls."""
        runs = []
        for run in self.runs:
            row = dataclasses.asdict(run)
            del row["scores"]
            runs.append(row)
        scores = [
            {"run": run.name, "rule_or_judge": rule_or_judge(found), **dataclasses.asdict(found)}
            for run in self.runs
            for found in run.scores
        ]
        controls = [dataclasses.asdict(found) for found in self.controls]
        return {"scored_by": exo2ego.__version__, "runs": runs, "results": scores, "controls": controls}


def rule_or_judge(found: TaskScore) -> str:
    """Returns who decided what is right: `rule` (index or words), `judge` (a language model), `both`, or `nobody`."""
    judged = {measure.name.startswith("judge_") for measure in found.measures}
    return {(): "nobody", (False,): "rule", (True,): "judge"}.get(tuple(sorted(judged)), "both")


def make_results(folders: Sequence[RunFolder], names: Sequence[str] | None = None) -> Results:
    """Scores folders; `names` are given to the runs in order, else they are named for their models.

    Raises `ConfigError` where there are not as many names as folders, or one name twice.
    """
    if names is not None and (len(names) != len(folders) or len(set(names)) < len(names)):
        raise ConfigError(f"--names {','.join(names)}: expected {len(folders)} different names, one per folder")
    chosen = list(names) if names is not None else names_of(folders)
    runs = [_score_run(folder, name) for folder, name in zip(folders, chosen, strict=True)]
    controls, alone = compare_controls(folders, chosen)
    for run in runs:
        if run.name in alone and len(runs) > 1:
            run.warnings.append("a control without its model: give the folder of the same model as well")
    return Results(runs, controls)


def read_results(paths: Sequence[Path], names: Sequence[str] | None = None) -> Results:
    """Reads and scores output folders."""
    return make_results([read_run(path) for path in paths], names)


def _score_run(folder: RunFolder, name: str) -> RunResults:
    extra = open_measures(folder.path, folder.questions)
    no_calibration = _no_calibration(folder)
    scores = [
        dataclasses.replace(
            found,
            measures=found.measures + extra.get(found.task, []),
            calibration=None if no_calibration else found.calibration,
        )
        for found in score(folder.predictions, folder.failures, folder.questions)
    ]
    return RunResults(
        name=name,
        controls=controls_of(folder),
        identity=_identity(folder),
        warnings=_warnings(folder, scores),
        no_calibration=no_calibration,
        judge_agreement=judge_agreement(folder.path),
        scores=scores,
        averages=_averages(folder, scores),
    )


def _no_calibration(folder: RunFolder) -> str:
    """Returns why there is none: scores that the model does not say are log-probabilities are not taken for such."""
    said = (folder.description.get("provenance", {}).get("model") or {}).get("scores")
    return f"its option scores are {said}, not log-probabilities" if said else ""


def _identity(folder: RunFolder) -> dict[str, Any]:
    made_by = folder.description.get("provenance", {})
    hashes = sorted(f"{row.question_id} {row.mode} {row.prompt_hash}" for row in folder.predictions)
    return {
        "model": made_by.get("model"),
        "settings": {name: value for name, value in folder.key.items() if name != "data_root"},
        "config": _without_place(folder.config),
        "code": made_by.get("code"),
        "packages": made_by.get("packages"),
        "inputs": {Path(path).name: digest for path, digest in sorted(made_by.get("inputs", {}).items())},
        "prompts_answered": hash_text("\n".join(hashes)),
        "judge": judge_of(folder.path),
    }


def _without_place(value: Any) -> Any:
    """Returns a value of the configuration without `PLACES`; of an absolute path only its last part is left."""
    if isinstance(value, list):
        return [_without_place(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_place(item) for key, item in value.items() if key not in PLACES}
    if isinstance(value, str):
        # FAMILY:/path, ARCHITECTURE@/path; an endpoint's address (http://…) stays
        return re.sub(r"(^|[:@])/(?!/)\S*", lambda found: found[1] + found[0].rpartition("/")[2], value)
    return value


def _warnings(folder: RunFolder, scores: Sequence[TaskScore]) -> list[str]:
    found = []
    if not folder.description:
        found.append("there is no run.json: which model and prompts were used is not known")
    version = folder.key.get("exo2ego", exo2ego.__version__)
    if version != exo2ego.__version__:
        found.append(f"answered with exo2ego {version}, scored with {exo2ego.__version__}")
    if not folder.questions:
        found.append("there is no questions.jsonl: unanswered questions cannot be counted, nor parts of a task scored")
    if folder.num_cut:
        found.append("the last line of the predictions is half written and was left out: the run was killed")
    if folder.num_strangers:
        found.append(f"{folder.num_strangers:,} predictions are for questions that were not asked; they are left out")
    repeating = sum(
        len({normal_form(option) for option in question.options}) < len(question.options)
        for question in folder.questions.values()
    )
    if repeating:
        found.append(f"{repeating:,} questions give an option twice: an answer by text that chooses it counts as wrong")
    for row in scores:
        if row.num_unanswered:
            answered = row.num_questions - row.num_unanswered
            found.append(
                f"unfinished: {row.task} ({row.mode}) has {answered:,} of {row.num_questions:,} questions done"
            )
    waiting = sorted({question.task for question in folder.questions.values()} - {row.task for row in scores})
    if waiting:
        found.append(f"unfinished: no answers yet to {', '.join(waiting)}")
    return found


def _averages(folder: RunFolder, scores: Sequence[TaskScore]) -> list[Average]:
    found = {row.mode for row in scores if row.task in AVERAGED and row.printed}
    modes = [mode for mode in PREFERRED if mode in found]
    return [_average(folder, [row for row in scores if row.mode == mode], mode) for mode in modes]


def _average(folder: RunFolder, scores: Iterable[TaskScore], mode: AnswerMode) -> Average:
    printed = {row.task: row.printed for row in scores if row.task in TASKS and row.printed is not None}
    values = {task: measure.value for task, measure in printed.items()}
    chances = {task: measure.chance for task, measure in printed.items() if measure.chance is not None}
    value = paper_average(values)
    return Average(
        mode=mode,
        value=value,
        interval=None if value is None else average_interval(_parts(folder, mode)),
        chance=paper_average(chances),
        missing=[task for task in AVERAGED if task not in values],
        axes=radar(values),
    )


def _parts(folder: RunFolder, mode: AnswerMode) -> list[tuple[list[float], list[str]]]:
    parts = []
    for task in AVERAGED:
        scored = [
            row for row in folder.predictions if row.task == task and row.mode == mode and row.answer_index is not None
        ]
        parts.append((printed_values(task, scored), [row.video for row in scored]))
    return parts
