"""Tests on the reference material skip where it is absent, and fail there when it is required."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import shared_data


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "specs").mkdir()
    monkeypatch.setenv(shared_data.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.delenv("EXO2EGO_REQUIRE_SHARED", raising=False)
    return tmp_path


def test_what_is_there_is_found(folder: Path) -> None:
    assert shared_data.shared_path("specs") == folder / "specs"


def test_what_is_absent_skips_with_a_reason() -> None:
    with pytest.raises(pytest.skip.Exception, match=r"reference material not found: .*absent"):
        shared_data.shared_path("absent")


def test_what_is_required_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXO2EGO_REQUIRE_SHARED", "1")
    with pytest.raises(pytest.fail.Exception, match=r"reference material not found: .*absent"):
        shared_data.shared_path("absent")
