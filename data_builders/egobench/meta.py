"""What a question may say beside (`Question.meta`): every key of every source with its one type (docs/egobench.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

META_TYPES: Mapping[str, Any] = {
    "also_correct": list[int],
    "same_as_truth": list[int],
    "similarities": list[float],
    "video_uid": str,
    "recording_start_s": float,
    "recording_end_s": float,
    "clip_uid": str,
    "evidence_start_s": float,
    "evidence_end_s": float,
    "answer_form": str,
    "structural": str,
    "reference": str,
    "reasoning_type": str,
    "action_class": str,
    "verb_class": int,
    "noun_classes": list[int],
    "relevance": list[float],
    "video_source": str,
    "task_goal": str,
    "progress": list[str],
    "published_options": list[int],
}
"""A key has the same meaning wherever it stands."""
