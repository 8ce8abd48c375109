"""Every output says which code, packages, command, configuration and inputs made it."""

from __future__ import annotations

import datetime
import json
import shutil
import subprocess
import sys
from pathlib import Path

import exo2ego
from exo2ego.provenance import RECORDED_PACKAGES, code_version, package_versions, provenance
from tests.shared_data import REPOSITORY

PRINT_CODE_VERSION = "import json; from exo2ego.provenance import code_version; print(json.dumps(code_version()))"


def code_version_in(folder: Path) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", PRINT_CODE_VERSION], cwd=folder, capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout))


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def copy_package(folder: Path) -> None:
    shutil.copytree(REPOSITORY / "exo2ego", folder / "exo2ego", ignore=shutil.ignore_patterns("__pycache__"))


def test_the_record_is_complete_and_serialisable() -> None:
    record = json.loads(json.dumps(provenance({"a": 1}, seed=7, inputs={"clips": "ab"})))
    assert record["config"] == {"a": 1}
    assert (record["seed"], record["inputs"]) == (7, {"clips": "ab"})
    assert record["code"]["version"] == exo2ego.__version__
    written = datetime.datetime.fromisoformat(record["written_utc"])
    assert abs(datetime.datetime.now(datetime.timezone.utc) - written) < datetime.timedelta(minutes=1)
    assert provenance({})["inputs"] == {}


def test_package_versions_are_those_installed() -> None:
    versions = package_versions()
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert set(versions) <= {"python", *RECORDED_PACKAGES}
    assert {"torch", "transformers", "pydantic"} <= set(versions)


def test_code_version_names_the_commit_and_local_changes(tmp_path: Path) -> None:
    copy_package(tmp_path)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "code")
    commit = git(tmp_path, "rev-parse", "HEAD")
    expected = {"version": exo2ego.__version__, "commit": commit, "modified": False}
    assert code_version_in(tmp_path) == expected
    with (tmp_path / "exo2ego" / "errors.py").open("a") as stream:
        stream.write("# changed\n")
    assert code_version_in(tmp_path) == {**expected, "modified": True}


def test_an_installed_copy_does_not_claim_a_strangers_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "a user's own work")
    site_packages = tmp_path / "venv" / "site-packages"
    copy_package(site_packages)
    assert code_version_in(site_packages) == {"version": exo2ego.__version__, "commit": None, "modified": None}


def test_code_version_is_read_once() -> None:
    assert code_version() is code_version()
