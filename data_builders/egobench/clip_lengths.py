"""How many videos and seconds the questions of a table show, beside Table 2 of the paper."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_builders.source import Account


@dataclass
class ClipLengths:
    """Counts videos and seconds of the clips of one table."""

    videos: set[str] = field(default_factory=set)
    num_clips: int = 0
    total_s: float = 0.0

    def add(self, video: str, length_s: float) -> None:
        """Adds the clip of one question."""
        self.videos.add(video)
        self.num_clips += 1
        self.total_s += length_s

    def tell(self, account: Account, table: str, *, paper_mean_s: float) -> None:
        """Puts the counts into the account, beside the paper's mean length of a clip (Exo2Ego Table 2)."""
        account.facts[f"{table}_videos"] = len(self.videos)
        if self.num_clips:
            account.facts[f"{table}_mean_clip_seconds"] = round(self.total_s / self.num_clips, 3)
            account.facts[f"{table}_mean_clip_seconds_in_paper"] = paper_mean_s
