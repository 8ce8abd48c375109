#!/usr/bin/env bash
# All checks: lint, format, types, tests with coverage. Makes .venv first; fails if any check fails.
# Arguments go to pytest: bash scripts/test.sh -k config
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/setup_environment.sh
export PATH="$PWD/.venv/bin:$PATH"
export OMP_NUM_THREADS=1 # two test processes share the cores

failed=()
check() { # NAME COMMAND…
    printf '\n== %s: %s\n' "$1" "${*:2}"
    "${@:2}" || failed+=("$1")
}

check lint python -m ruff check .
check format python -m ruff format --check .
check types python -m mypy
check tests python -m pytest --numprocesses 2 --dist worksteal --cov --cov-report term --durations 15 "$@"

((${#failed[@]} == 0)) || {
    printf '\nfailed: %s\n' "${failed[*]}" >&2
    exit 1
}
printf '\nall checks passed\n'
