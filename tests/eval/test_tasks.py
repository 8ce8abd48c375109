"""The paper's average and radar, from the paper's own numbers."""

from __future__ import annotations

import pytest

from data_builders.egobench.all import SOURCES
from eval.tasks import AVERAGED, TASKS, paper_average, radar

STAGE_3 = {
    "egoschema": 61.3,
    "qaego4d_close": 62.1,
    "egotaskqa_direct": 44.7,
    "egotaskqa_indirect": 50.3,
    "charades_ego": 70.9,
    "ek100_mir": 49.7,
    "egoplan": 42.7,
    "vlnqa": 44.5,
    "egomcq_inter": 88.4,
    "egomcq_intra": 41.2,
}
"""Exo2Ego Table 15, stage 3."""


def test_the_paper_s_average() -> None:
    assert len(AVERAGED) == 10
    assert paper_average(STAGE_3) == pytest.approx(55.58)  # printed as 55.6
    assert paper_average(STAGE_3 | {"qaego4d_open": 28.3}) == pytest.approx(55.58)
    assert paper_average({name: value for name, value in STAGE_3.items() if name != "vlnqa"}) is None


def test_the_axes_of_figure_1() -> None:
    axes = radar(STAGE_3)
    assert list(axes) == [
        "EgoSchema",
        "QAEgo4D",
        "EgoTaskQA",
        "Charades-Ego",
        "EK-100 MIR",
        "EgoPlan",
        "VLN-QA",
        "EgoMCQ",
    ]
    assert axes["EgoTaskQA"] == pytest.approx(47.5)
    assert axes["EgoSchema"] == pytest.approx(61.3)
    assert axes["QAEgo4D"] == pytest.approx(62.1)
    assert axes["Charades-Ego"] == pytest.approx(70.9)
    assert axes["EK-100 MIR"] == pytest.approx(49.7)
    assert axes["EgoPlan"] == pytest.approx(42.7)
    assert axes["VLN-QA"] == pytest.approx(44.5)
    assert axes["EgoMCQ"] == pytest.approx(64.8)
    assert radar({"egomcq_inter": 88.4})["EgoMCQ"] is None
    assert radar(dict.fromkeys(STAGE_3, 0.0))["EgoMCQ"] == 0.0
    assert radar({"egomcq_inter": 0.0, "egomcq_intra": 40.0})["EgoMCQ"] == 20.0
    assert radar({}) == dict.fromkeys(axes)


def test_every_built_table_is_a_task() -> None:
    built = {table for source in SOURCES for table in source.tables}
    assert built == set(TASKS)
