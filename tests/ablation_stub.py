"""Stands in for a stage under the driver of ablations: `python ablation_stub.py -m stages.x --config F key=value …`.

Counts its starts, notes a version of the code and two steps of its own, ends when `until=FILE` exists, fails while
`fails_until=FILE` does not exist, answers SIGTERM with a checkpoint and exit code 143, as a stage does.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from exo2ego.config import parse_overrides
from exo2ego.storage import write_json, write_jsonl


def main() -> int:
    """Does what the overrides say."""
    values = parse_overrides([word for word in sys.argv[1:] if "=" in word])
    folder = Path(values["output_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    with (folder / "starts").open("a") as stream:
        stream.write("start\n")
    write_json(folder / "run.json", {"provenance": {"code": {"version": "of the stub"}}})
    write_jsonl(folder / "metrics.jsonl", [{"step": 1, "seconds": 100.0}, {"step": 2, "seconds": 20.0}])
    while "until" in values and not Path(values["until"]).exists() and not stopped:
        time.sleep(0.02)
    if stopped:
        (folder / "checkpoint").touch()
        return 143
    if "fails_until" in values and not Path(values["fails_until"]).exists():
        print("loss is not finite at step 7", file=sys.stderr)
        return 6
    return 0


if __name__ == "__main__":
    sys.exit(main())
