"""The tasks of EgoBench: what the paper prints of each, and how its numbers become one average and one radar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """One table of questions and the measure that the paper prints of it (Exo2Ego Tables 3 to 6)."""

    name: str
    """Name of the table, as in `Question.task`."""
    title: str
    """Name in the paper."""
    measure: str
    """Name of the printed measure, as in `Measure.name`."""
    axis: str | None
    """Axis of Figure 1; tasks of one axis are averaged. None: not in the figure."""
    also: tuple[str, ...] = ()
    """Other measures that the paper prints."""


TASKS = {
    task.name: task
    for task in (
        Task("egoschema", "EgoSchema", "accuracy", "EgoSchema"),
        Task("qaego4d_close", "QAEgo4D (closed)", "accuracy", "QAEgo4D"),
        Task("qaego4d_open", "QAEgo4D (open)", "judge_accuracy", None, also=("judge_score",)),
        Task("egotaskqa_direct", "EgoTaskQA (direct)", "accuracy", "EgoTaskQA"),
        Task("egotaskqa_indirect", "EgoTaskQA (indirect)", "accuracy", "EgoTaskQA"),
        Task("charades_ego", "Charades-Ego", "option_mAP", "Charades-Ego"),
        Task("ek100_mir", "EK-100 MIR", "option_mAP", "EK-100 MIR", also=("option_nDCG",)),
        Task("egoplan", "EgoPlan", "accuracy", "EgoPlan"),
        Task("vlnqa", "VLN-QA", "accuracy", "VLN-QA"),
        Task("egomcq_inter", "EgoMCQ (inter)", "accuracy", "EgoMCQ"),
        Task("egomcq_intra", "EgoMCQ (intra)", "accuracy", "EgoMCQ"),
    )
}
"""By name, in the order of the paper's Table 15."""

GROUPS = {
    "qaego4d": ("qaego4d_close", "qaego4d_open"),
    "egotaskqa": ("egotaskqa_direct", "egotaskqa_indirect"),
    "charades": ("charades_ego",),
    "ek100": ("ek100_mir",),
    "egomcq": ("egomcq_inter", "egomcq_intra"),
}
"""Names for all tables of a dataset, beside the tables' own."""

AVERAGED = tuple(task.name for task in TASKS.values() if task.axis is not None)
"""The ten numbers whose mean is the paper's "Avg": it gives the 55.6 of Tables 7, 8 and 16 (not stated there)."""


def paper_average(values: Mapping[str, float]) -> float | None:
    """Returns the mean of the ten numbers by task name, None where one is missing: fewer are not comparable."""
    if any(name not in values for name in AVERAGED):
        return None
    return sum(values[name] for name in AVERAGED) / len(AVERAGED)


def radar(values: Mapping[str, float]) -> dict[str, float | None]:
    """Returns the axes of Exo2Ego Figure 1: the mean of each axis' tasks, None where one of them is missing."""
    axes: dict[str, list[str]] = {}
    for task in TASKS.values():
        if task.axis is not None:
            axes.setdefault(task.axis, []).append(task.name)
    return {
        axis: sum(values[name] for name in names) / len(names) if all(name in values for name in names) else None
        for axis, names in axes.items()
    }
