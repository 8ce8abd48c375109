"""A plan as Slurm array files: one array per level, each starting when the one before has ended."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from exo2ego.storage import write_text
from scripts.ablations.planning import Plan, Run

ARRAY = """\
#!/usr/bin/env bash
# Level {level} of the plan: {what}. Written by scripts.ablate --slurm; fill in partition, GPUs, memory and time.
#SBATCH --job-name=ablation-{level}
#SBATCH --array=0-{last}
#SBATCH --output={log_dir}/slurm-{level}-%a-%j.log
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
set -euo pipefail
cd {folder}
names=(
{names}
)
name=${{names[$SLURM_ARRAY_TASK_ID]}}
{python} -m scripts.ablate {arguments} --run "$name" &
child=$!
# 300 s before the time is over, or when pre-empted: the stage saves a checkpoint, and the job queues again to go on
stopped=0
trap 'stopped=1; kill -TERM "$child"' TERM
code=0
wait "$child" || code=$?
while kill -0 "$child" 2>/dev/null; do wait "$child" || code=$?; done
[[ $stopped == 0 ]] || scontrol requeue "$SLURM_JOB_ID"
exit "$code"
"""
SUBMIT = """\
#!/usr/bin/env bash
# Submits every level after the one before, and the tables last. A failed run fails those that build on it, no others.
# Run it again for what is left: finished runs end at once.
set -euo pipefail
cd "$(dirname "${{BASH_SOURCE[0]}}")"
{levels}
sbatch --dependency="afterany:$level_{last}" --job-name=ablation-report --output={log_dir}/slurm-report-%j.log report.sh
"""
REPORT = """\
#!/usr/bin/env bash
set -euo pipefail
cd {folder}
{python} -m scripts.ablate {arguments} --report
"""


def write_slurm_files(plan: Plan, folder: Path, out: Path, arguments: Sequence[str]) -> Path:
    """Writes level_N.sh, report.sh and submit.sh, and returns submit.sh; `arguments` make the same plan again."""
    levels: dict[int, list[Run]] = {}
    for run in plan.runs.values():
        levels.setdefault(run.level, []).append(run)
    log_dir = (out / "logs").resolve()
    log_dir.mkdir(parents=True, exist_ok=True)
    places = {
        "folder": shlex.quote(str(Path.cwd())),
        "python": "python",
        "arguments": shlex.join(arguments),
        "log_dir": shlex.quote(str(log_dir)),
    }
    for level, runs in sorted(levels.items()):
        steps = ", ".join(sorted({run.name.rpartition("-")[0] for run in runs}))
        names = "\n".join(f"    {run.name}" for run in runs)
        text = ARRAY.format(level=level, what=steps, last=len(runs) - 1, names=names, **places)
        write_text(folder / f"level_{level}.sh", text)
    write_text(folder / "report.sh", REPORT.format(**places))
    submit = folder / "submit.sh"
    write_text(submit, SUBMIT.format(levels="\n".join(_submissions(sorted(levels))), last=max(levels), **places))
    return submit


def _submissions(levels: Sequence[int]) -> list[str]:
    """Returns a line per level; a level waits for the end of the one before, however it went."""
    lines = []
    for level in levels:
        after = f' --dependency="afterany:$level_{level - 1}"' if level else ""
        lines.append(f"level_{level}=$(sbatch --parsable{after} level_{level}.sh)")
    return lines
