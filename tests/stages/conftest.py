"""The corpus of tests/train, made once for these tests too."""

from __future__ import annotations

from tests.train.conftest import corpus

__all__ = ["corpus"]
