"""Token conventions that model and data share (torch-free)."""

from __future__ import annotations

VIDEO_TOKEN = "<video>"
"""Placeholder in the language model's vocabulary: one per visual token of a clip."""

IGNORED = -100
"""Label of a position without loss (torch's `ignore_index`)."""
