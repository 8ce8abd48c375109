"""The results of one or several evaluations as one object, from which every file and page of a report is made.

It holds no clock and no place on a disk: scoring the same files again gives the same bytes.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import exo2ego
from eval.open_measures import judge_of, open_measures
from eval.run_folder import RunFolder, read_run
from eval.scoring import TaskScore, printed_values, score
from eval.tasks import AVERAGED, TASKS, paper_average, radar
from exo2ego.errors import ConfigError
from exo2ego.intervals import Interval, average_interval
from exo2ego.records import AnswerMode
from exo2ego.storage import hash_text

CONTROLS = {"blind": "blind", "shuffle_frames": "shuffled frames"}
"""Keys of a run that make it a control, and how it is called."""
PLACES = ("output", "data")
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
    scores: list[TaskScore]
    averages: list[Average]

    @property
    def title(self) -> str:
        """Returns the name, with what kind of control it is."""
        return _title(self.name, self.controls)

    @property
    def frames(self) -> str:
        """Returns the number of frames per clip, empty where it is not known."""
        found = self.identity["settings"].get("num_frames")
        return "" if found is None else str(found)


@dataclass(frozen=True)
class Results:
    """One or several runs."""

    runs: list[RunResults]

    def to_json(self) -> dict[str, Any]:
        """Returns the content of results.json: the runs, and under `results` every task's score."""
        runs = []
        for run in self.runs:
            row = dataclasses.asdict(run)
            del row["scores"]
            runs.append(row)
        scores = [{"run": run.name, **dataclasses.asdict(found)} for run in self.runs for found in run.scores]
        return {"scored_by": exo2ego.__version__, "runs": runs, "results": scores}


def make_results(folders: Sequence[RunFolder], names: Sequence[str] | None = None) -> Results:
    """Scores folders; `names` are given to the runs in order, else they are named for their models.

    Raises `ConfigError` where there are not as many names as folders, or one name twice.
    """
    if names is not None and (len(names) != len(folders) or len(set(names)) < len(names)):
        raise ConfigError(f"--names {','.join(names)}: expected {len(folders)} different names, one per folder")
    chosen = list(names) if names is not None else _names(folders)
    return Results([_score_run(folder, name) for folder, name in zip(folders, chosen, strict=True)])


def titles_of(folders: Sequence[RunFolder]) -> list[str]:
    """Returns how runs are called: by their models, with what kind of control they are."""
    return [_title(name, _controls(folder)) for name, folder in zip(_names(folders), folders, strict=True)]


def _title(name: str, controls: Sequence[str]) -> str:
    return name + "".join(f" ({control})" for control in controls if control not in name)


def read_results(paths: Sequence[Path], names: Sequence[str] | None = None) -> Results:
    """Reads and scores output folders."""
    return make_results([read_run(path) for path in paths], names)


def _score_run(folder: RunFolder, name: str) -> RunResults:
    extra = open_measures(folder.path, folder.questions)
    scores = [
        dataclasses.replace(found, measures=found.measures + extra.get(found.task, []))
        for found in score(folder.predictions, folder.failures, folder.questions)
    ]
    return RunResults(
        name=name,
        controls=_controls(folder),
        identity=_identity(folder),
        warnings=_warnings(folder, scores),
        scores=scores,
        averages=_averages(folder, scores),
    )


def _names(folders: Sequence[RunFolder]) -> list[str]:
    models = [_model_name(folder) for folder in folders]
    counts = Counter(models)
    names = [
        model if counts[model] == 1 else f"{model} in {folder.path.resolve().name}"
        for model, folder in zip(models, folders, strict=True)
    ]
    repeated = Counter(names)
    return [name if repeated[name] == 1 else f"{name} #{place}" for place, name in enumerate(names, 1)]


def _controls(folder: RunFolder) -> list[str]:
    return [word for key, word in CONTROLS.items() if folder.setting(key, False)]


def _model_name(folder: RunFolder) -> str:
    model = str(folder.config.get("model", "")).rstrip("/")
    return model.rpartition("/")[2].rpartition(":")[2] or folder.path.resolve().name


def _identity(folder: RunFolder) -> dict[str, Any]:
    made_by = folder.description.get("provenance", {})
    hashes = sorted(f"{row.question_id} {row.mode} {row.prompt_hash}" for row in folder.predictions)
    return {
        "model": made_by.get("model"),
        "settings": folder.key,
        "config": {key: _without_place(value) for key, value in folder.config.items() if key not in PLACES},
        "code": made_by.get("code"),
        "packages": made_by.get("packages"),
        "inputs": {Path(path).name: digest for path, digest in sorted(made_by.get("inputs", {}).items())},
        "prompts_answered": hash_text("\n".join(hashes)),
        "judge": judge_of(folder.path),
    }


def _without_place(value: Any) -> Any:
    """Returns a value of the configuration in which an absolute path is only its last part."""
    if isinstance(value, list):
        return [_without_place(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_place(item) for key, item in value.items()}
    if isinstance(value, str):
        family, separator, path = value.rpartition(":")
        is_path = path.startswith("/") and not path.startswith("//")  # an endpoint's address stays
        return f"{family}{separator}{Path(path).name}" if is_path else value
    return value


def _warnings(folder: RunFolder, scores: Sequence[TaskScore]) -> list[str]:
    found = []
    if not folder.description:
        found.append("there is no run.json: which model and prompts were used is not known")
    if not folder.questions:
        found.append("there is no questions.jsonl: unanswered questions cannot be counted, nor parts of a task scored")
    if folder.num_cut:
        found.append("the last line of the predictions is half written and was left out: the run was killed")
    if folder.num_strangers:
        found.append(f"{folder.num_strangers:,} predictions are for questions that were not asked; they are left out")
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
    modes: list[AnswerMode] = sorted({row.mode for row in scores if row.task in AVERAGED and row.printed})
    return [_average(folder, [row for row in scores if row.mode == mode], mode) for mode in modes]


def _average(folder: RunFolder, scores: Iterable[TaskScore], mode: AnswerMode) -> Average:
    printed = {row.task: row.printed for row in scores if row.task in TASKS and row.printed is not None}
    values = {task: measure.value for task, measure in printed.items()}
    chances = {task: measure.chance for task, measure in printed.items() if measure.chance is not None}
    value = paper_average(values)
    return Average(
        mode=mode,
        value=value,
        interval=None if value is None else average_interval(_parts(folder, mode), (0.0, 1.0)),
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
