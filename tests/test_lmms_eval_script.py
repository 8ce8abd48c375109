"""The script that runs lmms-eval, with stand-ins for Python and lmms-eval, so that nothing is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.shared_data import REPOSITORY

# A Python that makes an environment by copying itself, and writes down what it was asked to install.
PYTHON = """\
#!/usr/bin/env bash
case "$*" in
    *"import torch"*) [[ -z ${NO_TORCH:-} ]] ;;
    *sysconfig*) here=$(cd "$(dirname "$0")/.." && pwd) && mkdir -p "$here/lib" && echo "$here/lib" ;;
    "-m venv --without-pip "*)
        mkdir -p "${4}/bin" && cp "$0" "${4}/bin/python" && cp "$(dirname "$0")/lmms-eval" "${4}/bin/lmms-eval" ;;
    "-m pip install "*) echo "$*" >>"$LOG"; [[ -z ${NO_NETWORK:-} ]] ;;
    *) true ;;
esac
"""
LMMS_EVAL = """\
#!/usr/bin/env bash
echo "lmms-eval $*" >>"$LOG"
echo "${SAYS:-fine}"
exit "${ENDS:-0}"
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with the script, and an interpreter of the project in `project/bin`."""
    root = tmp_path / "repository with space"
    (root / "scripts").mkdir(parents=True)
    for name in ("scripts/lmms_eval.sh", "scripts/lmms_eval_requirements.txt", "constraints.txt"):
        shutil.copy(REPOSITORY / name, root / name)
    (root / "project" / "bin").mkdir(parents=True)
    for name, text in (("python", PYTHON), ("lmms-eval", LMMS_EVAL)):
        path = root / "project" / "bin" / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
    return root


@pytest.fixture
def run(repository: Path) -> Run:
    def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        known = {
            "PYTHON": str(repository / "project/bin/python"),
            "LOG": str(repository / "log"),
            "EGOBENCH_ROOT": str(repository),
        }
        return subprocess.run(
            ["bash", str(repository / "scripts/lmms_eval.sh"), *arguments],
            cwd=repository.parent,
            env={**os.environ, **known, **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return start


def log(repository: Path) -> list[str]:
    path = repository / "log"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def test_it_makes_an_environment_once_and_hands_the_arguments_on(run: Run, repository: Path) -> None:
    assert run("--tasks", "egobench", "--model_args", "a=b c").returncode == 0
    installed, started = log(repository)
    assert "--no-deps" in installed
    assert "--ignore-installed" in installed  # packages of the project are never uninstalled
    assert (
        started
        == f"lmms-eval --include_path {repository}/eval/lmms_eval_plugin/tasks --tasks egobench --model_args a=b c"
    )
    own = repository / ".venv-lmms-eval" / "lib"
    assert f"site.addsitedir('{repository}/project/lib')" in (own / "project.pth").read_text(encoding="utf-8")
    assert (
        "exo2ego = eval.lmms_eval_plugin.model:manifest" in next(own.glob("*.dist-info/entry_points.txt")).read_text()
    )
    assert run().returncode == 0
    assert len(log(repository)) == 3


@pytest.mark.parametrize("changed", ["constraints.txt", "scripts/lmms_eval_requirements.txt"])
def test_other_versions_make_it_again(run: Run, repository: Path, changed: str) -> None:
    run()
    with (repository / changed).open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    (repository / ".venv-lmms-eval" / "old").touch()
    assert run().returncode == 0
    assert not (repository / ".venv-lmms-eval" / "old").exists()
    assert sum("pip install" in line for line in log(repository)) == 2


def test_a_failed_installation_is_said_and_tried_again(run: Run, repository: Path) -> None:
    done = run(NO_NETWORK="1")
    assert done.returncode == 1
    assert "could not be installed; check the network" in done.stderr
    assert not any(line.startswith("lmms-eval") for line in log(repository))
    assert run().returncode == 0


def test_an_error_that_lmms_eval_only_prints_ends_with_an_error(run: Run) -> None:
    done = run(SAYS="ERROR Error during evaluation: no such folder")
    assert done.returncode == 1
    assert "no such folder" in done.stdout
    assert run(ENDS="3").returncode == 3


@pytest.mark.parametrize("root", ["", "/nowhere/at/all"])
def test_without_videos_nothing_is_installed(run: Run, repository: Path, root: str) -> None:
    failed = run("--tasks", "egobench", EGOBENCH_ROOT=root)
    assert failed.returncode == 1
    assert "EGOBENCH_ROOT" in failed.stderr
    assert not log(repository)
    assert not (repository / ".venv-lmms-eval").exists()


def test_without_the_projects_environment_it_says_what_to_do(run: Run) -> None:
    done = run(NO_TORCH="1")
    assert done.returncode == 1
    assert "run bash scripts/setup_environment.sh first" in done.stderr
