"""What all tests share: no network, reproducible property tests, and a way to run entry points as a user does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import hypothesis
import pytest

from tests.shared_data import REPOSITORY

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that would download fails at once, also in subprocesses
# The same examples in every run, and no failure because the machine is busy.
hypothesis.settings.register_profile(
    "house", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("house")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a shell starts what it puts into the background so, and programs inherit it: the tests could interrupt none
    signal.signal(signal.SIGINT, signal.default_int_handler)

RunPython = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def run_python() -> RunPython:
    """Runs `python ARGUMENTS…` in the repository's root and returns the finished process with its output as text."""

    def run(*arguments: object, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=timeout_s)

    return run
