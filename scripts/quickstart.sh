#!/usr/bin/env bash
# The whole path on two CPU cores: a generated Ego-Exo4D, Ego-ExoClip, a small language model, initialisation,
# stages 1 to 3, evaluation after each, a control, and runs/quickstart/report.html.
#   bash scripts/quickstart.sh             about ten minutes after the installation
#   bash scripts/quickstart.sh --smoke     the same commands at the smallest size, about a minute: nothing is learned
# An interrupted run continues where it stopped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

preset=quickstart
takes=320
questions=300
if [[ ${1:-} == --smoke ]]; then
    preset=tiny
    takes=12
    questions=8
elif [[ $# -gt 0 ]]; then
    echo "error: unknown argument $1; the only option is --smoke" >&2
    exit 2
fi
readonly preset takes questions
readonly runs=${EXO2EGO_RUNS:-runs/$preset} configs=stages/configs/$preset

bash scripts/setup_environment.sh
export PATH="$PWD/.venv/bin:$PATH"
# Two single-threaded processes use two cores better than one process with two threads: evaluations and the control
# run beside the stages.
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
background=()
trap 'jobs -p | xargs -r kill 2>/dev/null || true' EXIT

say() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }

evaluate() { # NAME RUN VIEW FORM [override…]: the held-out questions, answered by one run
    python -m eval.egobench --config eval/configs/quickstart.yaml "model=$runs/$2" "output=$runs/evaluation/$1" \
        "questions=$runs/questions/questions.jsonl" "data_root=$runs/egoexo4d" "view=$3" "form=$4" "${@:5}" \
        >"$runs/logs/evaluate_$1.log" 2>&1
}

stage() { # STAGE NAME [override…]: trains, or continues, one run
    python -m "stages.$1" --config "$configs/$1.yaml" --resume auto "output_dir=$runs/$2" "${@:3}" 2>&1 |
        tee "$runs/logs/$2.log"
}

in_background() {
    "$@" &
    background+=($!)
}

wait_for_background() {
    local pid
    for pid in "${background[@]}"; do
        wait "$pid" || { echo "error: a background step failed; see $runs/logs/" >&2; exit 1; }
    done
    background=()
}

mkdir -p "$runs/logs"
say "a generated Ego-Exo4D"
python -m data_builders.synthetic --out "$runs/egoexo4d" --takes "$takes"
python -m data_builders.synthetic --out "$runs/egoexo4d" --takes "$takes" --preview "$runs/preview.png"

say "Ego-ExoClip, instructions, held-out questions"
for split in train val; do
    python -m data_builders.ego_exoclip --root "$runs/egoexo4d" --split "$split" --out "$runs/clips/$split"
done
