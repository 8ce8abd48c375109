#!/usr/bin/env bash
# Runs lmms-eval with the EgoBench tasks and the model `exo2ego`, in an environment of its own (docs/lmms_eval.md):
#     EGOBENCH_ROOT=VIDEOS bash scripts/lmms_eval.sh --model exo2ego --model_args pretrained=DIR --tasks egobench
# Arguments go to lmms-eval. Makes .venv-lmms-eval first; a second run does not. It sees the packages of .venv, or of
# PYTHON=/path/to/python, and changes nothing there.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root
readonly environment=$root/.venv-lmms-eval
readonly stamp=$environment/installed
readonly requirements=$root/scripts/lmms_eval_requirements.txt
readonly python=${PYTHON:-$root/.venv/bin/python}

stop() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

fingerprint() {
    { printf '%s\n' "$packages" && cat "$requirements" "$root/constraints.txt" "$root/scripts/lmms_eval.sh"; } | cksum
}

install_packages() { # installs what `requirements` lists, with pip or uv, whichever made the project's environment
    local options=(--quiet --no-deps --no-build-isolation --requirement "$requirements")
    if "$python" -m pip --version >/dev/null 2>&1; then
        "$environment/bin/python" -m pip install --ignore-installed "${options[@]}"
    elif command -v uv >/dev/null; then
        uv pip install --python "$environment/bin/python" "${options[@]}"
    else
        stop "neither $python -m pip nor uv is there to install packages with"
    fi
}

make_environment() {
    echo "creating $environment (540 MB, a minute or two)"
    rm -rf "$environment"
    "$python" -m venv --without-pip "$environment" || stop "$python cannot create a virtual environment"
    local own
    own=$("$environment/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
    printf 'import site; site.addsitedir(%s)\n' "'$packages'" >"$own/project.pth"
    # what tells lmms-eval of the model, also beside an installation of the project that is older than its entry point
    mkdir "$own/exo2ego_in_lmms_eval-0.dist-info"
    printf 'Metadata-Version: 2.1\nName: exo2ego-in-lmms-eval\nVersion: 0\n' >"$own/exo2ego_in_lmms_eval-0.dist-info/METADATA"
    printf '[lmms_eval.models]\nexo2ego = eval.lmms_eval_plugin.model:manifest\n' \
        >"$own/exo2ego_in_lmms_eval-0.dist-info/entry_points.txt"
    install_packages || stop "the packages of $requirements could not be installed; check the network and run again"
    "$environment/bin/python" -c "import eval.lmms_eval_plugin.model" ||
        stop "lmms-eval or the model plugin cannot be imported in $environment; see above"
    fingerprint >"$stamp"
}

if [[ $* == *egobench* && ! -d ${EGOBENCH_ROOT:-} ]]; then # before minutes of installing
    stop "EGOBENCH_ROOT (${EGOBENCH_ROOT:-not set}) is no folder; set it to the folder of the videos"
fi
"$python" -c "import torch" 2>/dev/null || stop "$python has no torch: run bash scripts/setup_environment.sh first"
packages=$("$python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
readonly packages

exec 9>"$environment.lock" # two runs at once: one makes the environment, the other waits
if command -v flock >/dev/null; then flock 9; fi
[[ -f $stamp && $(<"$stamp") == "$(fingerprint)" ]] || make_environment
exec 9>&-

# lmms-eval ends with 0 after an error; what it prints then tells a caller
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
"$environment/bin/lmms-eval" --include_path "$root/eval/lmms_eval_plugin/tasks" "$@" 2>&1 | tee "$log" || status=$?
if ((status == 0)) && grep -q 'Error during evaluation' "$log"; then status=1; fi
exit "$status"
