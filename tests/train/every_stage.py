"""Every stage one after another in the processes of one launch: `torchrun … -m tests.train.every_stage JOBS.json`.

A job is {"stage", "corpus", "output_dir", "overrides", "resume"}. One launch for all saves the imports of each.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from accelerate import Accelerator
from accelerate.state import AcceleratorState

from tests.tiny_corpus import TinyCorpus
from tests.tiny_runs import run


def main(jobs_file: str) -> None:
    jobs = json.loads(Path(jobs_file).read_text(encoding="utf-8"))
    end_training = Accelerator.end_training
    Accelerator.end_training = lambda self: None  # type: ignore[method-assign]  # the processes stay joined
    for job in jobs:
        corpus = TinyCorpus(*(Path(path) for path in job["corpus"]))
        AcceleratorState._reset_state(reset_partial_state=False)
        code = run(job["stage"], corpus, Path(job["output_dir"]), *job["overrides"], resume=job["resume"])
        assert code == 0, (job["stage"], code)
    end_training(Accelerator())


if __name__ == "__main__":
    main(sys.argv[1])
