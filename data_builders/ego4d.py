"""Where the Ego4D command-line tool puts videos and canonical clips, and how their frames are numbered."""

from __future__ import annotations

FRAME_RATE = 30.0
"""Frames per second of the canonical videos and clips (Ego4D annotation guide)."""
VIDEO_LAYOUTS = (
    "v1/full_scale/{video}.mp4",
    "v2/full_scale/{video}.mp4",
    "v1/video_540ss/{video}.mp4",
    "v2/video_540ss/{video}.mp4",
    "v1_288p/{video}.mp4",  # as EgoPlan's authors name the folder of the small videos
    "full_scale/{video}.mp4",
    "videos/{video}.mp4",
    "{video}.mp4",
)
CLIP_LAYOUTS = ("v1/clips/{clip}.mp4", "v2/clips/{clip}.mp4", "clips/{clip}.mp4", "videos/{clip}.mp4", "{clip}.mp4")
