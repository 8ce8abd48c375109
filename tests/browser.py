"""Opens a page in a browser without a window: its text after the scripts ran, or a picture of it."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

import numpy
import pytest
from numpy.typing import NDArray
from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@functools.cache
def browser() -> str:
    found = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    return found


def run_browser(profile: Path, *arguments: str) -> str:
    command = [
        *(browser(), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *("--force-device-scale-factor=1", f"--user-data-dir={profile}", "--virtual-time-budget=2000", *arguments),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return done.stdout


def screenshot(profile: Path, page: Path, size: str, *arguments: str) -> NDArray[numpy.int64]:
    picture = profile.parent / "screenshot.png"
    run_browser(profile, f"--screenshot={picture}", f"--window-size={size}", *arguments, page.as_uri())
    with Image.open(picture) as image:
        return numpy.asarray(image.convert("RGB")).astype(numpy.int64)
