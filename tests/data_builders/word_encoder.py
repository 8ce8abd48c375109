"""Makes the builders embed texts by their words, without a model."""

from __future__ import annotations

import pytest

from tests.text_encoders import WordEncoder


def use_word_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces SentenceBERT in the pools of wrong options and in the quality report."""
    for module in ("options", "quality"):
        monkeypatch.setattr(f"data_builders.distractors.{module}.load_encoder", lambda model: WordEncoder())
