"""A stage in several processes, one of which fails in its second step: `torchrun … -m tests.train.dying_process`.

Arguments: how the last process fails (killed, broken, bad data, not a number), a JSON list of overrides for stage 1.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from exo2ego.command_line import RunOptions, run_safely
from exo2ego.config import load_config
from exo2ego.errors import DataError
from exo2ego.train.run import run_stage
from stages.stage1 import Stage1, Stage1Config
from tests.shared_data import REPOSITORY


class Failing(Stage1):
    """Stage 1 whose losses fail in the last process."""

    calls = 0
    way = ""

    def losses(self, model: Any, batch: Any) -> Any:
        Failing.calls += 1
        terms = super().losses(model, batch)
        if Failing.calls < 2 or os.environ["RANK"] == "0":
            return terms
        if self.way == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.way == "broken":
            raise RuntimeError("CUDA out of memory, so to speak")
        if self.way == "bad data":
            raise DataError("videos/a.mp4: the disk is gone")
        return {name: replace(term, total=term.total * float("nan")) for name, term in terms.items()}


def main(way: str, overrides: str) -> int:
    Failing.way = way
    path = Path(REPOSITORY / "stages" / "configs" / "tiny" / "stage1.yaml")
    config = load_config(Stage1Config, path, json.loads(overrides))
    return run_safely(lambda: run_stage(Failing(config), RunOptions()), debug=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
