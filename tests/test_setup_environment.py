"""The set-up script on machines with faults; every program it calls is a stand-in, so that nothing is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.shared_data import REPOSITORY

# A Python that makes an environment by copying itself, and writes down what it was asked to install.
PYTHON = """
case "$*" in
    --version) echo "Python 3.$MINOR.0" ;;
    "-c "*"< (3, "*) wanted=${2##*< (3, }; [[ $MINOR -ge ${wanted%%)*} ]] ;;
    "-m venv --clear "*) mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
    "-m pip --version") ;;
    "-m pip install "*) echo "$*" >>installed; echo "$PIP_SAYS"; exit "$PIP_EXITS" ;;
    *) echo "unexpected: $*" >&2; exit 99 ;;
esac
"""
UV = """
case "$*" in
    "venv --quiet --clear --python python3.11 "*) mkdir -p "$6/bin" && cp "$(command -v "$5")" "$6/bin/python" ;;
    "pip install "*) echo "uv for $UV_PYTHON: $*" >>installed ;;
    *) echo "unexpected: $*" >&2; exit 99 ;;
esac
"""
DISK = "echo header; echo / 0 0 $FREE_KB 0% /"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "re po"
    (folder / "scripts").mkdir(parents=True)
    for name in ("pyproject.toml", "constraints.txt", "scripts/setup_environment.sh"):
        shutil.copy(REPOSITORY / name, folder / name)
    return folder


@pytest.fixture
def run(repository: Path, tmp_path: Path) -> Run:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("bash", "cat", "cksum", "rm", "tee", "grep", "awk", "mkdir", "cp", "dirname"):
        (programs / name).symlink_to(str(shutil.which(name)))
    for name, code in {"python3.11": PYTHON, "python3": PYTHON, "df": DISK}.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{code}")
        (programs / name).chmod(0o755)

    def run_script(**settings: str) -> subprocess.CompletedProcess[str]:
        machine = {"MINOR": "11", "FREE_KB": "90000000", "PIP_SAYS": "", "PIP_EXITS": "0", "HOME": os.environ["HOME"]}
        environment = {"PATH": str(programs), **machine, **settings}
        command = ["bash", "scripts/setup_environment.sh"]
        return subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=30)

    return run_script


def installs(repository: Path) -> list[str]:
    record = repository / "installed"
    return record.read_text().splitlines() if record.exists() else []


def test_a_second_run_installs_nothing_until_the_requirements_change(run: Run, repository: Path) -> None:
    first = run()
    assert (first.returncode, first.stderr) == (0, "")
    assert installs(repository) == ["-m pip install -c constraints.txt --editable .[all,dev,ray]"]
    second = run()
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert len(installs(repository)) == 1
    with (repository / "constraints.txt").open("a") as stream:
        stream.write("# changed\n")
    assert run().returncode == 0
    assert len(installs(repository)) == 2


def test_an_old_python_is_named(run: Run) -> None:
    done = run(MINOR="9")
    assert done.returncode == 1
    assert "Python 3.10 or newer is needed, but python3 is Python 3.9.0." in done.stderr


def test_a_python_that_is_asked_for_is_not_replaced_by_another(run: Run) -> None:
    done = run(PYTHON="python3.7-absent")
    assert done.returncode == 1
    assert "python3.7-absent" in done.stderr


def test_an_old_environment_is_not_overwritten(run: Run, repository: Path) -> None:
    assert run().returncode == 0
    done = run(MINOR="9")
    assert done.returncode == 1
    assert "holds Python 3.9.0; 3.10 or newer is needed: remove the folder" in done.stderr


def test_python_3_10_is_served_without_the_exact_set(run: Run, repository: Path) -> None:
    done = run(MINOR="10")
    assert done.returncode == 0
    assert "constraints.txt is for 3.11 and newer" in done.stdout
    assert installs(repository) == ["-m pip install --editable .[all,dev,ray]"]


def test_a_small_disk_is_noticed_before_anything_is_made(run: Run, repository: Path) -> None:
    done = run(FREE_KB="3000000")
    assert done.returncode == 1
    assert "needs 8 GB of disk, only 2 GB are free" in done.stderr
    assert not (repository / ".venv").exists()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("ERROR: [Errno 28] No space left on device", "is full"),
        ("NewConnectionError: Failed to establish a new connection", "a download failed. Check the network"),
        ("ERROR: No matching distribution found for torch==2.15.0", "a download failed. Check the network"),
        ("error: command 'gcc' failed", "the installation failed; the full output is in"),
    ],
)
def test_a_failed_installation_says_why_and_the_next_run_tries_again(
    run: Run, repository: Path, said: str, message: str
) -> None:
    failed = run(PIP_SAYS=said, PIP_EXITS="1")
    assert failed.returncode == 1
    assert message in failed.stderr.splitlines()[-1]
    assert run().returncode == 0
    assert len(installs(repository)) == 2


def test_uv_installs_where_it_is_available(run: Run, repository: Path, tmp_path: Path) -> None:
    uv = tmp_path / "programs" / "uv"
    uv.write_text(f"#!/usr/bin/env bash\n{UV}")
    uv.chmod(0o755)
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert installs(repository) == ["uv for .venv/bin/python: pip install -c constraints.txt --editable .[all,dev,ray]"]


def test_a_half_made_environment_is_made_again(run: Run, repository: Path) -> None:
    (repository / ".venv" / "bin").mkdir(parents=True)
    done = run()
    assert done.returncode == 0
    assert "creating .venv" in done.stdout
