"""What every output carries about its own making: code version, package versions, command, configuration, hashes."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import exo2ego

FILE_NAME = "provenance.json"
"""The record of an output that is a folder of another library's format."""
RECORDED_PACKAGES = ("torch", "transformers", "accelerate", "deepspeed", "peft", "datasets", "av", "numpy", "pydantic")


@functools.cache
def code_version() -> dict[str, Any]:
    """Returns the package version, the git commit and whether the working tree differed from it (None outside git)."""
    root = Path(exo2ego.__file__).resolve().parent.parent
    # An installed copy may lie inside a user's own repository, whose commit says nothing about this code.
    is_ours = _git(root, "ls-files", "--error-unmatch", "exo2ego/__init__.py") is not None
    commit = _git(root, "rev-parse", "HEAD") if is_ours else None
    changed = _git(root, "status", "--porcelain", "--untracked-files=no") if is_ours else None
    return {"version": exo2ego.__version__, "commit": commit, "modified": None if changed is None else bool(changed)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def package_versions() -> dict[str, str]:
    """Returns the installed versions of the packages that can change a number."""
    versions = {"python": platform.python_version()}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def provenance(config: dict[str, Any], seed: int | None = None, inputs: dict[str, str] | None = None) -> dict[str, Any]:
    """Returns the record that goes into every output: `inputs` maps an input's name to its SHA-256."""
    return {
        "code": code_version(),
        "packages": package_versions(),
        "command": " ".join(sys.argv),
        "written_utc": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "seed": seed,
        "config": config,
        "inputs": inputs or {},
    }
