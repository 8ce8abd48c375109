"""Where the reference material lies that is not part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDER_VARIABLE = "EXO2EGO_SHARED"


def shared_path(relative: str) -> Path:
    """Returns a path inside the folder named by EXO2EGO_SHARED (default `../shared`, relative to the repository).

    Where it is absent the test skips with a reason; with EXO2EGO_REQUIRE_SHARED=1 (set by `.ci/run`) it fails.
    """
    path = REPOSITORY / os.environ.get(FOLDER_VARIABLE, "../shared") / relative
    if not path.exists():
        reason = f"reference material not found: {path} (name its folder with {FOLDER_VARIABLE})"
        if os.environ.get("EXO2EGO_REQUIRE_SHARED") == "1":
            pytest.fail(reason)
        pytest.skip(reason, allow_module_level=True)
    return path
