#!/usr/bin/env bash
# What the ablations on the generated world read, made once for all rows and seeds: a generated Ego-Exo4D, Ego-ExoClip,
# instructions, questions about held-out takes, and the stand-in for Mistral-7B-Instruct.
#   bash scripts/ablation_world.sh             runs/ablation_world
#   bash scripts/ablation_world.sh --smoke     the same commands at the smallest size: nothing is learned
# Interrupted, it continues where it stopped. EXO2EGO_WORLD=DIR puts everything into another folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

world=(--takes 220 --frame-size 48 --ego-difficulty 0.5 --exo-difficulty 0) questions=300 conversations=1500
language=stages/configs/ablations/world/init_language.yaml
if [[ ${1:-} == --smoke ]]; then
    world=(--takes 10 --seconds-per-take 8) questions=6 conversations=40
    language=stages/configs/tiny/init_language.yaml
elif [[ $# -gt 0 ]]; then
    echo "error: unknown argument $1; the only option is --smoke" >&2
    exit 2
fi
readonly out=${EXO2EGO_WORLD:-runs/ablation_world}
export PATH="$PWD/.venv/bin:$PATH" OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} TOKENIZERS_PARALLELISM=false

python -m data_builders.synthetic --out "$out/egoexo4d" "${world[@]}"
python -m data_builders.ego_exoclip --root "$out/egoexo4d" --out "$out/clips/train" --check-videos
alpha=$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["alpha_s"])' "$out/clips/train/stats.json")
python -m data_builders.ego_exoclip --root "$out/egoexo4d" --out "$out/clips/val" --split val --alpha "$alpha" \
    --check-videos
python -m data_builders.narration_instructions --clips "$out/clips/train/clips.parquet" \
    --out "$out/conversations.jsonl" --kinds caption choice_letter choice_text --max-conversations "$conversations"
python -m data_builders.narration_questions --clips "$out/clips/val/clips.parquet" \
    --out "$out/questions/questions.jsonl" --max-questions "$questions"
python -m stages.init_language --config "$language" clips="$out/clips/train/clips.parquet" \
    conversations="$out/conversations.jsonl" output_dir="$out/language"
