"""A made-up egoclip.csv in the real structure, traps included."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

COLUMNS = (
    *("clip_idx", "video_uid", "video_dur", "narration_source", "narration_ind", "narration_time"),
    *("clip_start", "clip_end", "clip_text", "tag_verb", "tag_noun"),
)
UIDS = ("00000009-1111-4111-8111-111111111111", "00000009-2222-4222-8222-222222222222")
DURATION_S = 1300.5


def egoclip_row(index: int, start_s: float, end_s: float, text: str = "#C C picks a cup", **changes: object) -> str:
    """Returns a line of the file without its end."""
    row = {
        "clip_idx": index,
        "video_uid": UIDS[0],
        "video_dur": DURATION_S,
        "narration_source": "narration_pass_1",
        "narration_ind": index,
        "narration_time": (start_s + end_s) / 2,
        "clip_start": start_s,
        "clip_end": end_s,
        "clip_text": text,
        "tag_verb": "[93]",
        "tag_noun": "[192, 115, 12]",
        **changes,
    }
    return "\t".join(str(row[name]) for name in COLUMNS)


TRAPS = (
    egoclip_row(0, 2.967651, 3.721266),
    egoclip_row(1, -0.176808, 0.576808, "#O A man X opens the door", tag_verb="[]"),
    egoclip_row(2, 1300.2, 1300.9, '"#C C says hello to the #unsure', video_uid=UIDS[1]),
    egoclip_row(3, 1400.0, 1401.0),
    egoclip_row(4, 5.0, 4.0),
    egoclip_row(5, 7.0, 7.0, "#c C drops the #Unsure in the bin", narration_source="narration_pass_2"),
    egoclip_row(6, 599.5, 601.5, "C walks\u2028around"),
    egoclip_row(7, 9.0, 10.0, "#C"),
)
"""A row each: plain, before the start, beyond the end with a stray quote, outside, backwards, no length, across a
border of chunks, without a text."""


def write_egoclip_rows(root: Path, lines: Sequence[str], *, end: str = "\r\n") -> Path:
    """Writes a file of these lines below the header."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / "egoclip.csv"
    path.write_bytes("".join(line + end for line in ("\t".join(COLUMNS), *lines)).encode())
    return path


def write_egoclip(root: Path) -> None:
    """Writes the whole raw layout."""
    write_egoclip_rows(root, TRAPS)
