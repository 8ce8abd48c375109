"""Several processes of one evaluation, as torchrun or accelerate starts them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from exo2ego.console import console

LONGEST_WAIT = timedelta(days=7)
"""The usual 10 or 30 minutes are less than one process may finish before another: shares of clips differ. A process
that died is not waited for: its launcher ends the others."""


def _alone() -> None:
    """Waits for nobody."""


@dataclass(frozen=True)
class Processes:
    """Which process this is, of how many."""

    index: int = 0
    count: int = 1
    wait: Callable[[], None] = _alone
    """Returns when all processes have come so far."""


def join_processes() -> Processes:
    """Joins the other processes of `torchrun -m eval.egobench`; each takes the GPU of its number, the first one talks.

    Alone, as without torchrun, it imports nothing.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available(), timeout=LONGEST_WAIT)
    console.quiet = not state.is_main_process
    return Processes(state.process_index, state.num_processes, state.wait_for_everyone)
