"""What an installed copy holds: the four packages with their configurations, and nothing else of the repository."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import exo2ego
from tests.shared_data import REPOSITORY
from tests.source_tree import ROOTS


def test_the_wheel_holds_the_four_packages_and_their_configurations(tmp_path: Path) -> None:
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(REPOSITORY, source, ignore=ignored)
    build = "from setuptools.build_meta import build_wheel; build_wheel('.')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = source.glob("*.whl")
    assert wheel.name == f"exo2ego-{exo2ego.__version__}-py3-none-any.whl"
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {
        str(path.relative_to(REPOSITORY))
        for root in ROOTS
        for pattern in ("*.py", "*.yaml", "*.json", "templates/*")
        for path in (REPOSITORY / root).rglob(pattern)
    }
    assert names == expected
