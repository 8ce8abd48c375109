"""Steps for tests of the workers: they import nothing heavy and do as the video's name says."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from data_builders.clip_store.source_video import Beat, Fit
from data_builders.clip_store.video_step import VideoJob, VideoStep


class ObedientStep(VideoStep):
    """Dies, hangs, beats slowly, eats memory, fails, or returns the number of spans."""

    def fit(self) -> Fit:
        """Returns a resize that leaves pictures as they are."""
        return lambda frames: frames

    def run(self, job: VideoJob, beat: Beat) -> int:
        """Does what the name says."""
        name = Path(job.video).stem
        if name == "dies" or (name == "dies_once" and not _is_second_time(self.out)):
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "hangs":
            time.sleep(1000)
        if name == "stops":
            os.kill(os.getpid(), signal.SIGSTOP)
        if name == "eats":
            bytearray(8_000_000_000)
        if name == "full":
            raise OSError(28, "No space left on device")
        for _ in range(6 if name == "slow" else 1):
            time.sleep(0.4 if name == "slow" else 0)
            beat()
        return len(job.spans)


def _is_second_time(folder: Path) -> bool:
    mark = folder / "was_here"
    seen = mark.exists()
    mark.touch()
    return seen
