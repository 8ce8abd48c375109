"""Where EPIC-KITCHENS-100 lies on disk, and which time a frame number of its annotations means."""

from __future__ import annotations

import re

VIDEO_LAYOUTS = (
    "{participant}/videos/{video}.MP4",
    "{participant}/rgb_frames/{video}",
    "{participant}/{video}.MP4",
    "videos/{video}.MP4",
    "{video}.MP4",
    "{participant}/videos/{video}.mp4",
    "{participant}/{video}.mp4",
    "{video}.mp4",
)
"""Videos and folders of extracted frames as the download script lays them, then other forms, also converted ones."""
FIRST_PICTURE = 1
"""Number of the first extracted frame, `frame_0000000001.jpg`, which shows second 0."""
_VIDEO_ID = re.compile(r"(P\d{2})_(\d{2,3})")


def participant_of(video: str) -> str:
    """Returns `P01` of `P01_13`; raises `ValueError` for a text that is no video id."""
    return _parts(video)[0]


def frame_rate_of(video: str) -> float:
    """Returns the rate of the frame numbers and of the extracted frames of a video, in frames per second.

    It is not the rate of the video: frames were taken at 60 per second from every video of 2018 and at 50 from those of
    2020 (`P01_101`), whatever the video's own rate. Times in the annotations are frame / 60 to within one frame, also
    for the videos of 29.97, 47.95, 59.94 and 90 frames per second.
    """
    return 50.0 if len(_parts(video)[1]) == 3 else 60.0


def _parts(video: str) -> tuple[str, str]:
    found = _VIDEO_ID.fullmatch(video)
    if not found:
        raise ValueError(f"{video!r} is no EPIC-KITCHENS-100 video; expected an id as P01_13 or P01_101")
    return found[1], found[2]
