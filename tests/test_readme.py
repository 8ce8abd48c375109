"""Every command in the documentation exists, with its flags, files and configuration keys, and prints what is shown."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RunPython
from tests.shared_data import REPOSITORY

DOCUMENTS = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
# Programs of others: that they exist is not ours to check.
FOREIGN = {
    "cd",
    "git",
    "source",
    "egoexo",
    "aws",
    "huggingface-cli",
    "hf",
    "tensorboard",
    "sudo",
    "uv",
    "export",
    "mkdir",
}
OURS = ("stages.", "data_builders.", "eval.", "exo2ego", "scripts.")


def documented_commands(path: Path) -> list[str]:
    """Returns the commands of a document's bash blocks, continued lines joined, comments and prompts removed."""
    blocks = re.findall(r"^```bash\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def mentioned_commands(path: Path) -> list[str]:
    """Returns the commands that a document mentions in running text and tables, possibly without all their values."""
    return re.findall(r"`(python -m \w[^`]*)`", path.read_text(encoding="utf-8"))


def sessions(path: Path) -> list[tuple[str, str]]:
    """Returns the (command, output) pairs that a document shows after a `$` prompt."""
    return re.findall(r"^```\n\$ (.*?)\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def collect(find: Callable[[Path], list[Any]]) -> list[Any]:
    found = [(document, item) for document in DOCUMENTS if document.exists() for item in dict.fromkeys(find(document))]
    return [pytest.param(item, id=f"{document.name}: {item}"[:100]) for document, item in found]


def words_of(command: str) -> list[str]:
    """Splits a command, without comments and leading VARIABLE=value assignments."""
    words = shlex.split(command, comments=True)
    while words and re.match(r"^[A-Z_][A-Z0-9_]*=", words[0]):
        words.pop(0)
    return words


@pytest.mark.parametrize("command", collect(documented_commands))
def test_a_documented_command_is_valid(command: str, run_python: RunPython) -> None:
    words = words_of(command)
    if not words or words[0] in FOREIGN:
        return
    if words[0] == "bash":
        subprocess.run(["bash", "-n", REPOSITORY / words[1]], check=True)
    elif words[0] in ("python", "torchrun", ".venv/bin/python", ".venv/bin/torchrun"):
        at = words.index("-m") if "-m" in words else pytest.fail("only `-m MODULE` is shown to users")
        check_module(words[at + 1], words[at + 2 :], run_python)
        check_values(words[at + 1], words[at + 2 :], run_python)
    elif words[0] == "pip":
        check_extras(words)
    else:
        pytest.fail(f"{words[0]} is neither ours nor listed in FOREIGN")


@cache
def usage_of(module: str, run_python: RunPython) -> str:
    usage = run_python("-m", module, "--help")
    assert usage.returncode == 0, usage.stderr
    return usage.stdout


def check_module(module: str, arguments: list[str], run_python: RunPython) -> None:
    assert importlib.util.find_spec(module), f"there is no module {module}"
    if not module.startswith(OURS):
        return
    usage = usage_of(module, run_python)
    for flag in (word.partition("=")[0] for word in arguments if word.startswith("--")):
        assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", usage), f"{module} has no flag {flag}"
    for word in arguments:
        if word.startswith(("stages/", "eval/")) and word.endswith(".yaml"):
            assert (REPOSITORY / word).is_file(), f"{word} does not exist"


def check_values(module: str, arguments: list[str], run_python: RunPython) -> None:
    if module.startswith(OURS) and "--print-config" in usage_of(module, run_python) and "--help" not in arguments:
        printed = run_python("-m", module, *arguments, "--print-config")
        assert printed.returncode == 0, printed.stderr


@pytest.mark.parametrize("command", collect(mentioned_commands))
def test_a_mentioned_command_exists(command: str, run_python: RunPython) -> None:
    _, _, module, *arguments = words_of(command)
    check_module(module, arguments, run_python)


@pytest.mark.parametrize("session", collect(sessions))
def test_a_shown_session_is_what_happens(session: tuple[str, str], run_python: RunPython) -> None:
    command, output = session
    done = run_python(*words_of(command)[1:])
    assert done.stdout + done.stderr == output


def check_extras(words: list[str]) -> None:
    declared = set(re.findall(r"^(\w+) = \[$", (REPOSITORY / "pyproject.toml").read_text(), flags=re.MULTILINE))
    for extras in re.findall(r"\[([\w,-]+)\]", " ".join(words)):
        assert set(extras.split(",")) <= declared


def test_the_readme_starts_with_the_two_commands() -> None:
    first, second, *_ = documented_commands(REPOSITORY / "README.md")
    assert [words_of(first), words_of(second)] == [["bash", "scripts/quickstart.sh"], ["bash", "scripts/test.sh"]]


def test_links_to_files_of_the_repository_lead_somewhere() -> None:
    broken = []
    for document in DOCUMENTS:
        targets = re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", document.read_text(encoding="utf-8"))
        broken += [f"{document.name}: {target}" for target in targets if not (document.parent / target).exists()]
    assert not broken
