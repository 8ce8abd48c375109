#!/usr/bin/env bash
# Makes .venv in the repository's root hold what pyproject.toml and constraints.txt ask for; a second run does nothing.
# PYTHON=/path/to/python3 names the interpreter of a new environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly environment=.venv
readonly stamp=$environment/exo2ego-installed
readonly log=$environment/exo2ego-install.log
readonly extras=all,dev,ray
readonly needed_gb=8

stop() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# What the environment was made from: a change of any of these, or a moved repository, installs again.
fingerprint() {
    { pwd && cat pyproject.toml constraints.txt scripts/setup_environment.sh; } | cksum
}

is_at_least() { # PYTHON MINOR
    "$1" -c "import sys; sys.exit(sys.version_info < (3, $2))" 2>/dev/null
}

find_python() {
    local candidate
    # 3.11 first: the version that constraints.txt was tested with.
    for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3.10 python3}; do
        if is_at_least "$candidate" 10; then
            echo "$candidate"
            return
        fi
    done
    stop "Python 3.10 or newer is needed, but ${PYTHON:-python3} is $("${PYTHON:-python3}" --version 2>&1 || true)." \
        "Install one and run again, or name it: PYTHON=/path/to/python3.11 bash $0"
}

is_usable() { # an interrupted or moved environment has no Python that runs, or no installer
    is_at_least "$environment/bin/python" 0 && { has_uv || "$environment/bin/python" -m pip --version; } >/dev/null 2>&1
}

has_uv() {
    command -v uv >/dev/null
}

create_environment() {
    local python free_gb
    python=$(find_python)
    free_gb=$(df -Pk . | awk 'NR == 2 { print int($4 / 1048576) }')
    ((free_gb >= needed_gb)) ||
        stop "$PWD: the environment needs $needed_gb GB of disk, only $free_gb GB are free. Free space and run again."
    echo "creating $environment with $("$python" --version)"
    if has_uv; then
        uv venv --quiet --clear --python "$python" "$environment"
    else
        "$python" -m venv --clear "$environment"
    fi || stop "$python cannot create a virtual environment. On Debian and Ubuntu: sudo apt install python3-venv"
}

install_packages() {
    local python=$environment/bin/python installer=("$environment/bin/python" -m pip) constraints=(-c constraints.txt)
    if has_uv; then
        installer=(uv pip)
        export UV_PYTHON=$python
    fi
    if ! is_at_least "$python" 11; then
        echo "$("$python" --version): constraints.txt is for 3.11 and newer; installing the newest versions this Python has"
        constraints=()
    fi
    echo "installing packages into $environment (7 GB, a few minutes)"
    "${installer[@]}" install "${constraints[@]}" --editable ".[$extras]" 2>&1 | tee "$log" || explain_failure
}

explain_failure() {
    if grep -qi 'no space left' "$log"; then
        stop "the disk (or TMPDIR, ${TMPDIR:-/tmp}) is full: the environment needs $needed_gb GB. Free space and run again."
    elif grep -qiE 'connect|timed? ?out|resol(ve|ution)|max retries|dns|no matching distribution' "$log"; then
        stop "a download failed. Check the network (or the proxy and package index settings) and run again: finished" \
            "downloads are kept. Full output: $PWD/$log"
    fi
    stop "the installation failed; the full output is in $PWD/$log"
}

if [[ -f $stamp && $(<"$stamp") == "$(fingerprint)" ]] && is_at_least "$environment/bin/python" 10; then
    exit 0
fi
rm -f "$stamp"
is_usable || create_environment
is_at_least "$environment/bin/python" 10 ||
    stop "$PWD/$environment holds $("$environment/bin/python" --version); 3.10 or newer is needed: remove the folder and run again"
install_packages
fingerprint >"$stamp"
echo "environment ready: $environment"
