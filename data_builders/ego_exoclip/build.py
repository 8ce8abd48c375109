"""Building Ego-ExoClip: annotations in, a table of clips with its statistics and report out, all or nothing."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_builders.ego_exoclip.clip_rule import GroupBy, UndefinedBeta, ZeroLength
from data_builders.ego_exoclip.egoexo4d import (
    AnnotationFiles,
    Resolution,
    Split,
    Take,
    find_annotation_files,
    read_splits,
    read_takes,
)
from data_builders.ego_exoclip.filters import DropLog, takes_of_split, takes_with_videos
from data_builders.ego_exoclip.narrations import DropRule, NarrationReader, NarrationSpool
from data_builders.ego_exoclip.report import write_plots, write_report
from data_builders.ego_exoclip.table import ClipTables, Grouping, write_tables
from data_builders.ego_exoclip.video_check import VideoState, check_videos
from exo2ego.errors import DataError
from exo2ego.provenance import provenance
from exo2ego.raw.json_stream import stream_object
from exo2ego.storage import atomic_path, hash_file, remove_leftovers, write_json, write_jsonl, write_text

# Replaced together when everything is written; the first takes its place last and so marks a complete build.
OUTPUTS = ("provenance.json", "clips.parquet", "clips.arrow", "stats.json", "dropped.jsonl", "report.md", "plots")


@dataclass(frozen=True)
class BuildOptions:
    """What the command line says; docs/data.md explains every policy."""

    root: Path
    out: Path
    split: Split = "train"
    alpha: float | None = None
    """Seconds; None computes it from the takes that are kept."""
    group_by: GroupBy = "take"
    zero_length: ZeroLength = "keep"
    undefined_beta: UndefinedBeta = "half-second"
    drop: frozenset[DropRule] = frozenset({"rejected"})
    spell_out_wearer: bool = False
    resolution: Resolution = "448"
    check_files: bool = True
    check_videos: bool = False
    num_workers: int = 8

    def to_config(self) -> dict[str, Any]:
        """Returns the options as JSON values."""
        return {**asdict(self), "root": str(self.root), "out": str(self.out), "drop": sorted(self.drop)}


def build(options: BuildOptions) -> dict[str, Any]:
    """Builds the clip table with its statistics, report and provenance; returns the statistics.

    Raises `DataError` and leaves the output folder as it was when the input is incomplete or malformed.
    """
    files = find_annotation_files(options.root, options.split)
    remove_leftovers(options.out)
    with contextlib.ExitStack() as stack:
        output = {name: stack.enter_context(atomic_path(options.out / name)) for name in OUTPUTS}
        statistics, rows = build_table(options, files, output["clips.parquet"], output["clips.arrow"])
        write_json(output["stats.json"], statistics)
        write_jsonl(output["dropped.jsonl"], rows)
        write_text(output["report.md"], write_report(statistics))
        write_plots(statistics, output["plots"])
        inputs = {path.name: hash_file(path) for path in (files.takes, files.splits, files.descriptions)}
        write_json(output["provenance.json"], provenance(options.to_config(), inputs=inputs))
    return statistics


def build_table(
    options: BuildOptions, files: AnnotationFiles, parquet_path: Path, arrow_path: Path
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Writes the clip table; returns its statistics and the rows of dropped.jsonl."""
    drops = DropLog()
    takes = read_takes(files.takes, options.resolution)
    splits = read_splits(files.splits)
    with NarrationSpool(parquet_path.parent) as spool:
        annotated = _spool_narrations(options, files.descriptions, takes, splits, spool, drops)
        kept = takes_of_split(takes, splits, annotated, options.split, drops)
        videos = _video_check(options, kept)
        kept = takes_with_videos(kept, _usable(options, videos), drops)
        tables = _clip_tables(options, kept, spool)
        write_tables(tables, parquet_path, arrow_path)
    drops.update(tables.drops)
    statistics = _statistics(options, tables, drops, videos)
    if not statistics["durations"]["clips"]:
        raise DataError(_no_clip_message(options, drops))
    return statistics, drops.rows(takes)


def _spool_narrations(
    options: BuildOptions,
    path: Path,
    takes: Mapping[str, Take],
    splits: Mapping[str, str],
    spool: NarrationSpool,
    drops: DropLog,
) -> set[str]:
    """Writes the narrations of the split's takes to the spool; returns the uids that have any narration."""
    reader = NarrationReader(options.drop, options.spell_out_wearer, drops)
    annotated: set[str] = set()
    for uid, raw in stream_object(path, "annotations", "atomic descriptions"):
        if splits.get(uid) != options.split or uid not in takes:
            annotated.add(uid)
            continue
        try:
            narrations = reader.read(uid, raw)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"no key {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(f"{path}: take {uid} does not have Ego-Exo4D v2 annotations: {reason}") from error
        if narrations:
            spool.write(uid, narrations)
            annotated.add(uid)
    return annotated


def _video_check(options: BuildOptions, takes: list[Take]) -> dict[str, VideoState]:
    if not options.check_videos:
        return {}
    paths = [path for take in takes for path in (take.ego_video, *take.exo_videos) if path is not None]
    return check_videos(options.root, paths, options.out / "video_check.jsonl", num_workers=options.num_workers)


def _usable(options: BuildOptions, videos: Mapping[str, VideoState]) -> Callable[[str], bool]:
    """Returns the test of a video that the options ask for: readable, present, or none at all."""
    if options.check_videos:
        return lambda path: videos[path].state == "readable"
    if options.check_files:
        return lambda path: (options.root / path).is_file()
    return lambda path: True


def _clip_tables(options: BuildOptions, takes: list[Take], spool: NarrationSpool) -> ClipTables:
    betas = [spool.betas[take.uid] for take in takes]
    by_take, by_annotation = (
        Grouping(group_by, betas, options.alpha, options.undefined_beta) for group_by in ("take", "annotation")
    )
    chosen, other = (by_take, by_annotation) if options.group_by == "take" else (by_annotation, by_take)
    return ClipTables(takes, spool, chosen, other, options.zero_length)


def _statistics(
    options: BuildOptions, tables: ClipTables, drops: DropLog, videos: Mapping[str, VideoState]
) -> dict[str, Any]:
    return {
        "split": options.split,
        "group_by": options.group_by,
        "alpha_s": tables.grouping.alpha_s,
        "alpha": "auto" if options.alpha is None else options.alpha,
        "beta_s": tables.grouping.beta_summary(),
        **tables.statistics.summary(tables.takes),
        "other_grouping": {
            "group_by": tables.other.group_by,
            "alpha_s": tables.other.alpha_s,
            "beta_s": tables.other.beta_summary(),
            "durations": tables.other_durations.summary(),
        },
        "dropped": drops.totals(),
        "video_check": _video_statistics(videos),
    }


def _video_statistics(videos: Mapping[str, VideoState]) -> dict[str, Any]:
    faults = [video for video in videos.values() if video.state != "readable"]
    return {
        "states": dict(sorted(Counter(video.state for video in videos.values()).items())),
        "faults": [{"path": video.path, "state": video.state, "detail": video.detail} for video in faults],
    }


def _no_clip_message(options: BuildOptions, drops: DropLog) -> str:
    reasons = drops.totals().get("take", {})
    listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items(), key=lambda item: -item[1]))
    advice = "check --root and --split"
    if any(reason.endswith("unusable") for reason in reasons):
        advice = (
            f"videos were looked for below {options.root}/takes at --resolution {options.resolution}; download them, "
            "choose the other resolution, or build from the annotations alone with --no-files"
        )
    return f"{options.root}: no clip is left; takes dropped: {listed or 'none'}; {advice}"
