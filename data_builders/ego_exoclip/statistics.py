"""The figures of Exo2Ego §3.1 and Supplement A, accumulated batch by batch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy
import pyarrow
import pyarrow.compute
from numpy.typing import NDArray

from data_builders.ego_exoclip.clip_rule import FloatArray
from data_builders.ego_exoclip.egoexo4d import Take

BIN_S = 0.1
MAX_BINS = 30
"""Clip durations are counted in bins of 0.1 s; the last bin holds all from 2.9 s on."""

TOP_TASKS = 50
"""Exo2Ego Figure 10."""

COUNTRIES = {
    "cmu": "USA",
    "fair": "USA",
    "georgiatech": "USA",
    "iiith": "India",
    "indiana": "USA",
    "minnesota": "USA",
    "nus": "Singapore",
    "sfu": "Canada",
    "unc": "USA",
    "uniandes": "Colombia",
    "upenn": "USA",
    "utokyo": "Japan",
}
"""Country of each institution of Ego-Exo4D."""


class DurationStatistics:
    """Number, mean, spread and histogram of clip durations in seconds."""

    def __init__(self) -> None:
        self.count = 0
        self._sum = 0.0
        self._sum_of_squares = 0.0
        self._below_1s = 0
        self._zero_length = 0
        self._bins = numpy.zeros(MAX_BINS, dtype=numpy.int64)

    def add(self, durations_s: FloatArray) -> None:
        """Counts the clips of a batch, [N]."""
        self.count += len(durations_s)
        self._sum += float(durations_s.sum())
        self._sum_of_squares += float(numpy.square(durations_s).sum())
        self._below_1s += int((durations_s < 1.0).sum())
        self._zero_length += int((durations_s == 0).sum())
        bins = numpy.minimum(durations_s / BIN_S, MAX_BINS - 1).astype(numpy.int64)
        self._bins += numpy.bincount(bins, minlength=MAX_BINS)

    def summary(self) -> dict[str, Any]:
        """Returns the figures of Supplement A.2; the standard deviation is that of the whole population."""
        mean = self._sum / self.count if self.count else 0.0
        variance = self._sum_of_squares / self.count - mean * mean if self.count else 0.0
        return {
            "clips": self.count,
            "mean_s": mean,
            "std_s": math.sqrt(max(0.0, variance)),
            "share_below_1s": self._below_1s / self.count if self.count else 0.0,
            "zero_length": self._zero_length,
            "clip_hours": self._sum / 3600,
            "histogram": {"bin_s": BIN_S, "counts": self._bins.tolist()},
        }


class ClipStatistics:
    """Everything that Supplement A reports about the clips of the table and their takes."""

    def __init__(self) -> None:
        self.durations = DurationStatistics()
        self._words: NDArray[numpy.int64] = numpy.zeros(1, dtype=numpy.int64)
        self._extremes: dict[str, tuple[float, dict[str, Any]]] = {}
        self._takes_with_clips: set[str] = set()
        self._pairs = 0

    def add(self, rows: pyarrow.Table, takes: Sequence[Take], take_positions: NDArray[numpy.int64]) -> None:
        """Counts a batch of table rows; `take_positions` [N] tells which of `takes` each row belongs to."""
        if rows.num_rows == 0:
            return
        durations_s = rows["end_s"].to_numpy() - rows["start_s"].to_numpy()
        words = pyarrow.compute.list_value_length(pyarrow.compute.utf8_split_whitespace(rows["text"])).to_numpy()
        self.durations.add(durations_s)
        counts = numpy.bincount(words, minlength=len(self._words))
        counts[: len(self._words)] += self._words
        self._words = counts
        clips_per_take = numpy.bincount(take_positions, minlength=len(takes))
        self._pairs += int(clips_per_take @ numpy.array([len(take.exo_videos) for take in takes]))
        self._takes_with_clips.update(takes[position].uid for position in numpy.flatnonzero(clips_per_take))
        self._note_extreme("longest_clip", durations_s, rows)
        self._note_extreme("shortest_clip", numpy.where(durations_s > 0, -durations_s, -math.inf), rows)
        self._note_extreme("longest_narration", words.astype(numpy.float64), rows)

    def _note_extreme(self, name: str, scores: FloatArray, rows: pyarrow.Table) -> None:
        best = int(scores.argmax())
        if name in self._extremes and self._extremes[name][0] >= scores[best]:
            return
        row = rows.slice(best, 1).select(["clip_id", "scenario", "text", "start_s", "end_s"]).to_pylist()[0]
        row["duration_s"] = row.pop("end_s") - row.pop("start_s")
        self._extremes[name] = (float(scores[best]), {**row, "words": len(row["text"].split())})

    def summary(self, takes: Sequence[Take]) -> dict[str, Any]:
        """Returns all figures; of `takes` those count that have a clip."""
        kept = [take for take in takes if take.uid in self._takes_with_clips]
        ego_s = math.fsum(take.duration_s for take in kept)
        all_s = math.fsum(take.duration_s * (1 + len(take.exo_videos)) for take in kept)
        num_exo_videos = sum(len(take.exo_videos) for take in kept)
        universities = Counter(take.university for take in kept)
        tasks = Counter(take.task for take in kept)
        return {
            "takes": len(kept),
            "exo_videos": num_exo_videos,
            "videos": len(kept) + num_exo_videos,
            "exo_videos_per_take": num_exo_videos / len(kept) if kept else 0.0,
            "pairs": self._pairs,
            "ego_hours": ego_s / 3600,
            "video_hours": all_s / 3600,
            "durations": self.durations.summary(),
            "words": self._word_summary(),
            **{name: row for name, (_, row) in self._extremes.items()},
            "scenarios": _ranked(Counter(take.scenario for take in kept)),
            "institutions": _ranked(universities),
            "countries": len({COUNTRIES.get(name, name) for name in universities}),
            "num_tasks": len(tasks),
            "tasks": dict(list(_ranked(tasks).items())[:TOP_TASKS]),
        }

    def _word_summary(self) -> dict[str, Any]:
        lengths = numpy.arange(len(self._words))
        count = max(1, int(self._words.sum()))
        mean = float(lengths @ self._words) / count
        variance = float(numpy.square(lengths - mean) @ self._words) / count
        return {
            "mean": mean,
            "std": math.sqrt(variance),
            "share_10_to_20": int(self._words[10:21].sum()) / count,
            "counts": self._words.tolist(),
        }


def _ranked(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
