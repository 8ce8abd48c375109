"""The paper's batch arithmetic (Exo2Ego Table 14, A16) and its limits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo2ego.errors import ConfigError
from exo2ego.train.batch_plan import BatchPlan, plan_batches

# samples per epoch, epochs, global batch and warm-up fraction of Exo2Ego Tables 1 and 14
INIT_EGO = {"num_samples": 3_800_000, "epochs": 5, "global_size": 512, "warmup_fraction": 0.1}
STAGE_1 = {"num_samples": 1_100_000, "epochs": 2, "global_size": 256, "warmup_fraction": 0.03}
STAGE_2_GROUPED = {**STAGE_1, "num_samples": 261_300}
STAGE_3 = {"num_samples": 586_000, "epochs": 1, "global_size": 64, "warmup_fraction": 0.03}


def plan(values: dict[str, Any], **changes: Any) -> BatchPlan:
    return plan_batches(**{"local_size": 8, "world_size": 16, **values, **changes})


@pytest.mark.parametrize(
    ("values", "steps", "warmup"),
    [
        pytest.param(INIT_EGO, 37_109, 3_711, id="init_ego"),
        pytest.param(STAGE_1, 8_594, 258, id="stage 1, stage 2 all pairs"),
        pytest.param(STAGE_2_GROUPED, 2_041, 61, id="stage 2 grouped"),
        pytest.param(STAGE_3, 9_156, 275, id="stage 3"),
    ],
)
def test_steps_of_the_paper(values: dict[str, Any], steps: int, warmup: int) -> None:
    made = plan(values)
    assert (made.total_steps, made.warmup_steps) == (steps, warmup)


@pytest.mark.parametrize(
    ("values", "world_size", "local_size", "accumulation"),
    [
        pytest.param(INIT_EGO, 16, 8, 4, id="init_ego"),
        pytest.param(STAGE_1, 16, 8, 2, id="stage 1"),
        pytest.param(STAGE_3, 16, 4, 1, id="stage 3: the paper's local 8 on 16 GPUs would be 128"),
        pytest.param(STAGE_3, 8, 8, 1, id="stage 3 on one node"),
        pytest.param(STAGE_3, 64, 1, 1, id="one sample per GPU"),
        pytest.param(STAGE_3, 1, 8, 8, id="one GPU"),
    ],
)
def test_micro_batches_of_the_paper(
    values: dict[str, Any], world_size: int, local_size: int, accumulation: int
) -> None:
    made = plan(values, world_size=world_size)
    assert (made.local_size, made.accumulation) == (local_size, accumulation)


@given(st.integers(1, 64), st.integers(1, 16), st.integers(1, 64))
def test_the_global_batch_is_kept_or_refused(per_process: int, local_size: int, world_size: int) -> None:
    made = plan(STAGE_1, global_size=per_process * world_size, local_size=local_size, world_size=world_size)
    assert made.world_size * made.local_size * made.accumulation == made.global_size == per_process * world_size
    assert made.local_size <= local_size


@pytest.mark.parametrize("world_size", [3, 65, 96])
def test_processes_that_do_not_divide_the_global_batch(world_size: int) -> None:
    with pytest.raises(ConfigError, match=r"batch\.global_size 64 is not a multiple of the .* use one of .*(2|32|64)"):
        plan(STAGE_3, world_size=world_size)


def test_max_steps_shortens_the_schedule() -> None:
    made = plan(STAGE_1, max_steps=100)
    assert (made.total_steps, made.warmup_steps) == (100, 3)


def test_fewer_samples_than_a_batch_is_one_step() -> None:
    assert plan(STAGE_1, num_samples=3, epochs=1).total_steps == 1
