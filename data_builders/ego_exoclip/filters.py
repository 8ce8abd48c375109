"""Which takes enter Ego-ExoClip (Exo2Ego §3.1), and a record of everything that does not, with its reason."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass, replace
from typing import Any, Literal

from data_builders.ego_exoclip.egoexo4d import Split, Take

DropKind = Literal["take", "annotation", "narration", "video"]


@dataclass(frozen=True)
class Drop:
    """Something that was left out: `count` things of one kind, of one take, for one reason."""

    kind: DropKind
    reason: str
    take_uid: str
    detail: str = ""


class DropLog:
    """Everything that was left out, counted."""

    def __init__(self) -> None:
        self._counts: Counter[Drop] = Counter()

    def add(self, kind: DropKind, reason: str, take_uid: str, detail: str = "", *, count: int = 1) -> None:
        """Notes `count` things of one kind and take that were left out for one reason."""
        if count:
            self._counts[Drop(kind, reason, take_uid, detail)] += count

    def update(self, other: DropLog) -> None:
        """Adds what another log noted."""
        self._counts.update(other._counts)

    def totals(self) -> dict[str, dict[str, int]]:
        """Returns the number of things by kind and reason."""
        totals: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for drop, count in self._counts.items():
            totals[drop.kind][drop.reason] += count
        return {kind: dict(sorted(reasons.items())) for kind, reasons in sorted(totals.items())}

    def rows(self, takes: Mapping[str, Take]) -> list[dict[str, Any]]:
        """Returns one JSON row per entry, sorted, so that equal inputs give equal files."""
        drops = sorted(self._counts.items(), key=lambda item: astuple(item[0]))
        return [
            {
                "kind": drop.kind,
                "reason": drop.reason,
                "take_uid": drop.take_uid,
                "take_name": takes[drop.take_uid].name if drop.take_uid in takes else "",
                "detail": drop.detail,
                "count": count,
            }
            for drop, count in drops
        ]


def takes_of_split(
    takes: Mapping[str, Take], splits: Mapping[str, str], annotated: Iterable[str], split: Split, drops: DropLog
) -> list[Take]:
    """Returns the takes of `split` that have narrations and a UID mapping, sorted by name (the paper's three filters).

    A uid "lacks a mapping" when the split or annotation files name it but takes.json does not: such takes were
    withdrawn from the dataset.
    """
    narrated = set(annotated)
    kept: list[Take] = []
    for uid in sorted(takes.keys() | splits.keys() | narrated):
        own_split = splits.get(uid)
        if own_split != split:
            drops.add("take", f"{own_split}_split" if own_split else "no_split", uid)
        elif uid not in takes:
            drops.add("take", "no_uid_mapping", uid)
        elif uid not in narrated:
            drops.add("take", "no_narrations", uid)
        else:
            kept.append(takes[uid])
    return sorted(kept, key=lambda take: take.name)


def takes_with_videos(takes: Iterable[Take], is_usable: Callable[[str], bool], drops: DropLog) -> list[Take]:
    """Returns the takes with a length, a usable ego video and at least one usable exo video, without the others."""
    kept: list[Take] = []
    for take in takes:
        for path in take.unused_ego_videos:
            drops.add("video", "second_ego_camera", take.uid, path)
        exo_videos = tuple(path for path in take.exo_videos if is_usable(path))
        for path in sorted(set(take.exo_videos) - set(exo_videos)):
            drops.add("video", "exo_video_unusable", take.uid, path)
        if take.duration_s <= 0:
            drops.add("take", "no_duration", take.uid)
        elif take.ego_video is None:
            drops.add("take", "no_ego_camera", take.uid)
        elif not take.exo_videos:
            drops.add("take", "no_exo_camera", take.uid)
        elif not is_usable(take.ego_video):
            drops.add("take", "ego_video_unusable", take.uid, take.ego_video)
        elif not exo_videos:
            drops.add("take", "all_exo_videos_unusable", take.uid)
        else:
            kept.append(replace(take, exo_videos=exo_videos))
    return kept
