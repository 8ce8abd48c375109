#!/usr/bin/env bash
# The whole path on two CPU cores: a generated Ego-Exo4D, Ego-ExoClip, EgoIT and EgoBench from generated raw datasets, a
# small language model, initialisation, stages 1 to 3, evaluation after each, a control, and runs/quickstart/report.html.
#   bash scripts/quickstart.sh             about fifteen minutes after the installation
#   bash scripts/quickstart.sh --smoke     the same commands at the smallest size, a minute or two: nothing is learned
# Interrupted, it continues where it stopped. EXO2EGO_RUNS=DIR puts everything into another folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

preset=quickstart world=(--takes 220 --frame-size 48 --ego-difficulty 0.5 --exo-difficulty 0) questions=300 conversations=800
raw=(--training-rows 300 --benchmark-rows 40)
if [[ ${1:-} == --smoke ]]; then
    preset=tiny world=(--takes 10 --seconds-per-take 8) questions=6 conversations=40
    raw=(--training-rows 12 --benchmark-rows 12)
elif [[ $# -gt 0 ]]; then
    echo "error: unknown argument $1; the only option is --smoke" >&2
    exit 2
fi
readonly runs=${EXO2EGO_RUNS:-runs/$preset} configs=stages/configs/$preset

bash scripts/setup_environment.sh
export PATH="$PWD/.venv/bin:$PATH"
# Two single-threaded processes use two cores better than one process with two threads: the evaluations and the control
# run beside the stages.
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
mkdir -p "$runs/logs"
trap 'jobs -p | xargs -r kill 2>/dev/null || true' EXIT

say() { printf '\n== %s (after %d s)\n' "$1" "$SECONDS"; }

# CONFIG NAME [override…]: trains the run NAME, or continues it, or finds it complete
stage() {
    local table=$runs/clips/train/clips.arrow root=$runs/egoexo4d
    [[ $1 != *stage3 ]] || table=$runs/egoit/egoit.jsonl root=$runs/raw
    python -m "stages.${1##*/}" --config "$configs/$1.yaml" --resume auto output_dir="$runs/$2" data.table="$table" \
        data.root="$root" model.language_model.from_pretrained="$runs/language" "${@:3}"
}

# NAME RUN VIEW FORM [override…]: the run answers the held-out questions
evaluate() {
    python -m eval.egobench --config eval/configs/quickstart.yaml model="$runs/$2" output="$runs/evaluation/$1" \
        data.questions="$runs/questions/questions.jsonl" data.root="$runs/egoexo4d" view="$3" form="$4" "${@:5}"
}

# NAME RUN VIEW [override…]: the run answers EgoBench in every mode; open answers are compared word by word (a judge would
# need an endpoint)
evaluate_egobench() {
    evaluate "egobench_$1" "$2" "$3" chat data.questions="$runs/egobench" data.root="$runs/raw" \
        'modes=[likelihood,letter,generate]' "${@:4}"
    python -m eval.open_answers "$runs/evaluation/egobench_$1" --no-similarity
}

# NAME RUN VIEW: narrations in the form they were trained in, and EgoBench: a row of Exo2Ego Table 15
evaluate_both() {
    evaluate "$1" "$2" "$3" plain
    evaluate_egobench "$1" "$2" "$3"
}

# KIND SOURCE…: builds egoit or egobench from its raw datasets
build() {
    local source roots=()
    for source in "${@:2}"; do roots+=("$source.root=$runs/raw/$source"); done
    python -m "data_builders.$1.all" out="$runs/$1" media_root="$runs/raw" missing_videos=stop "${roots[@]}"
}

# What stages 1 and 2 are compared with: as many steps on ego clips alone, then the same instructions.
control() {
    stage control/init_ego control_init_ego parent="$runs/init_ego"
    evaluate control_init_ego control_init_ego ego_only plain
    stage control/stage3 control_stage3 parent="$runs/control_init_ego"
    evaluate control_stage3 control_stage3 ego_only chat
    evaluate_egobench control_stage3 control_stage3 ego_only
}

declare -A beside=()
run_beside() { # NAME COMMAND…: on the other core, output to logs/NAME.log
    "${@:2}" >"$runs/logs/$1.log" 2>&1 &
    beside[$1]=$!
}

wait_for() { # NAME…
    local name
    for name in "$@"; do
        wait "${beside[$name]}" || {
            echo "error: $name failed; the end of $runs/logs/$name.log:" >&2
            tail -n 5 "$runs/logs/$name.log" >&2
            exit 1
        }
        unset "beside[$name]"
    done
}

say "a generated Ego-Exo4D, with a contact sheet"
python -m data_builders.synthetic --out "$runs/egoexo4d" "${world[@]}" --preview "$runs/preview.png"

say "Ego-ExoClip, instructions from training takes, questions from held-out takes"
python -m data_builders.ego_exoclip --root "$runs/egoexo4d" --out "$runs/clips/train" --check-videos
alpha=$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["alpha_s"])' "$runs/clips/train/stats.json")
python -m data_builders.ego_exoclip --root "$runs/egoexo4d" --out "$runs/clips/val" --split val --alpha "$alpha" --check-videos
python -m data_builders.narration_instructions --clips "$runs/clips/train/clips.parquet" \
    --out "$runs/conversations.jsonl" --kinds caption choice_letter choice_text --max-conversations "$conversations"
python -m data_builders.narration_questions --clips "$runs/clips/val/clips.parquet" \
    --out "$runs/questions/questions.jsonl" --max-questions "$questions"

say "EgoIT from raw training datasets, EgoBench from raw held-out ones, in the layouts of the real ones"
python -m data_builders.synthetic.sources --corpus "$runs/egoexo4d" --out "$runs/raw" "${raw[@]}"
run_beside egobench build egobench egoschema qaego4d egotaskqa charades_ego ek100_mir egoplan vlnqa egomcq
build egoit egtea ssv2 egotimeqa openeqa egoexolearn

say "a small language model reads the corpus (stands in for Mistral-7B-Instruct)"
python -m stages.init_language --config "$configs/init_language.yaml" clips="$runs/clips/train/clips.parquet" \
    conversations="[$runs/conversations.jsonl,$runs/egoit/egoit.jsonl]" output_dir="$runs/language"

say "initialisation"
stage init_ego init_ego data.num_workers=1   # the other core decodes
wait_for egobench
run_beside control control
say "stage 1: teacher self-preparation"
stage stage1 stage1 parent="$runs/init_ego"
run_beside evaluate_init_ego evaluate_both init_ego init_ego ego_only
say "stage 2: teacher-student guidance"
stage stage2 stage2 parent="$runs/stage1"
run_beside evaluate_stage1_exo evaluate stage1_exo stage1 exo plain
run_beside evaluate_stage1_ego evaluate stage1_ego stage1 ego_only plain
say "stage 3: student self-practice"
stage stage3 stage3 parent="$runs/stage2"
run_beside evaluate_stage2 evaluate_both stage2 stage2 ego
say "evaluation of the final model, with two controls: without the video, and with its frames in another order"
run_beside evaluate_egobench_stage3 evaluate_egobench stage3 stage3 ego
evaluate stage3 stage3 ego chat 'modes=[likelihood,letter,generate]'
evaluate_egobench stage3_blind stage3 ego blind=true
evaluate_egobench stage3_shuffled stage3 ego shuffle_frames=true
say "waiting for the control"
wait_for "${!beside[@]}"

say "report"
python -m eval.report "$runs"/evaluation/egobench_{init_ego,stage2,stage3,stage3_blind,stage3_shuffled,control_stage3} \
    --names "initial,stage 2,stage 3,stage 3 blind,stage 3 shuffled,ego alone" \
    --data-root "$runs/raw" --out "$runs/egobench_report"
python -m eval.compare "$runs"/evaluation/egobench_{stage3,stage3_blind} | tee "$runs/egobench_report/stage3_against_blind.txt"
python -m scripts.quickstart_report --runs "$runs"
say "done: open $runs/report.html and $runs/egobench_report/report.html"
