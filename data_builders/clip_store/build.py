"""Building a clip store: plan, one part per source video, shards, index, account; a rerun continues."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_builders.clip_store.account import FailureLimit, failed_spans, write_failures
from data_builders.clip_store.engines import require_ray, run_jobs
from data_builders.clip_store.options import ClipStoreOptions
from data_builders.clip_store.parts import PARTS_FOLDER, Part
from data_builders.clip_store.plan import Plan, describe_plan, make_plan, require_room
from data_builders.clip_store.requests import read_requests, spans_by_video
from data_builders.clip_store.shards import lay_out, write_index, write_shards
from data_builders.clip_store.video_step import VideoJob, VideoStep
from exo2ego.console import console, track
from exo2ego.data.clip_store import INDEX_FILE, STORE_FILE, Shard, StoreDescription, read_description
from exo2ego.errors import DataError
from exo2ego.provenance import provenance
from exo2ego.storage import TEMPORARY_MARK, hash_file, read_json, remove_leftovers, write_json

RUN_FILE = "run.json"
"""With which options an unfinished output was begun."""
LAYOUT_FILE = "layout.json"
"""All parts were complete when this was written: from then on only shards are made of them."""
LOCK_FILE = ".lock"


def build(options: ClipStoreOptions) -> StoreDescription | Plan:
    """Builds or continues a store and returns its description, or the plan in a dry run.

    Raises `DataError` for bad input, another run's output, too many failures or too small a disk.
    """
    _require_inputs(options)
    made_with = options.made_with()
    former = _former_options(options.out)
    _require_same(options.out, former, made_with)
    if (options.out / STORE_FILE).exists():
        _remove_working_files(options.out)
        return read_description(options.out)
    requests, by_video = spans_by_video(read_requests(options.clips, options.views), options.clips)
    videos = [VideoJob(video, spans) for video, spans in by_video.items()]
    if options.dry_run:
        return make_plan(options, requests, videos, _remaining(options, videos))
    with _only_run(options.out):
        if former is None:
            write_json(options.out / RUN_FILE, {"made_with": made_with})
        for folder in (options.out, options.out / PARTS_FOLDER):
            remove_leftovers(folder)
        if not (options.out / LAYOUT_FILE).exists():
            _make_parts(options, requests, videos)
            write_json(options.out / LAYOUT_FILE, {"parts": len(videos)})
        return _finish(options, made_with, videos)


def _make_parts(options: ClipStoreOptions, num_requests: int, videos: Sequence[VideoJob]) -> None:
    remaining = _remaining(options, videos)
    plan = make_plan(options, num_requests, videos, remaining)
    for line in describe_plan(options, plan):
        console.print(line, markup=False)
    require_room(options, plan)
    parts = [Part.of(options.out, job.video) for job in videos]
    open_videos = {job.video for job in remaining}
    done = [part for part, job in zip(parts, videos, strict=True) if job.video not in open_videos]
    limit = FailureLimit(options.max_failure_rate, plan.num_spans, options.out)
    spent = limit.add(len(failed_spans(done)))
    for job in remaining:
        Part.of(options.out, job.video).remove()
    if not spent:
        outcomes = run_jobs(options, VideoStep.of(options), remaining)
        for _, num_failed in track(outcomes, "videos", total=len(remaining)):
            spent = limit.add(num_failed)
            if spent:
                break
        outcomes.close()
    if spent:
        write_failures(options.out, read_requests(options.clips, options.views), failed_spans(parts))
        raise limit.error()


def _finish(options: ClipStoreOptions, made_with: dict[str, Any], videos: Sequence[VideoJob]) -> StoreDescription:
    """Makes shards, index and account of the parts; `store.json` marks the end."""
    parts = [Part.of(options.out, job.video) for job in videos]
    layout = lay_out(parts, options.shard_bytes)
    shards: list[Shard] = list(track(write_shards(options.out, layout), "shards", total=len(layout.shards)))
    index = options.out / INDEX_FILE
    write_index(index, layout.tables)
    failed = failed_spans(parts)
    account = write_failures(options.out, read_requests(options.clips, options.views), failed)
    num_spans = sum(len(job.spans) for job in videos)
    stored = sum(shard.num_clips for shard in shards)
    if (
        stored + len(failed) != num_spans
        or account["written"] + account["outside"] + account["unreadable"] != (account["requested"])
    ):
        raise DataError(f"{options.out}: the account does not sum up; the input changed meanwhile? build it again")
    from exo2ego.data.pixels import CLIP_MEAN, SIGLIP_MEAN, padding_colour  # imports torch

    description = StoreDescription(
        num_frames=options.num_frames,
        sampling="videollama2",
        image_size=options.image_size,
        aspect=options.aspect,
        padding_colour=padding_colour(CLIP_MEAN if options.pixel_statistics == "clip" else SIGLIP_MEAN),
        shards=shards,
        index_bytes=index.stat().st_size,
        index_sha256=hash_file(index),
        account={**account, "distinct": num_spans, "distinct_written": stored, "videos": len(videos)},
        made_with=made_with,
        provenance=provenance(
            options.model_dump(mode="json"), inputs={str(path): hash_file(path) for path in options.clips}
        ),
    )
    write_json(options.out / STORE_FILE, description.model_dump(mode="json"))
    _remove_working_files(options.out)
    return description


def _remove_working_files(out: Path) -> None:
    """Removes what only an unfinished store needs."""
    if (out / PARTS_FOLDER).is_dir():
        shutil.rmtree(out / PARTS_FOLDER)
    for name in (RUN_FILE, LAYOUT_FILE, LOCK_FILE):
        (out / name).unlink(missing_ok=True)


def _remaining(options: ClipStoreOptions, videos: Sequence[VideoJob]) -> list[VideoJob]:
    if (options.out / LAYOUT_FILE).exists():
        return []
    return [
        job
        for job in videos
        if not Part.of(options.out, job.video).is_current(options.media_root / job.video, len(job.spans))
    ]


def _require_inputs(options: ClipStoreOptions) -> None:
    for path in options.clips:
        if not path.is_file():
            raise DataError(f"{path}: --clips: no such file; build the table first (docs/data.md)")
    if not options.media_root.is_dir():
        raise DataError(
            f"{options.media_root}: --media-root is not a folder; give the one the videos' paths start from"
        )
    if options.engine == "ray":
        require_ray()


def _former_options(out: Path) -> dict[str, Any] | None:
    if (out / STORE_FILE).exists():
        return read_description(out).made_with
    if (out / RUN_FILE).exists():
        made_with: dict[str, Any] = read_json(out / RUN_FILE, "description of an unfinished clip store")["made_with"]
        return made_with
    strangers = out.is_dir() and [
        path.name for path in out.iterdir() if path.name != LOCK_FILE and TEMPORARY_MARK not in path.name
    ]
    if strangers:
        raise DataError(f"{out}: holds files of something else ({sorted(strangers)[0]}); give a new folder")
    return None


def _require_same(out: Path, former: dict[str, Any] | None, now: dict[str, Any]) -> None:
    different = [
        f"{name}: {former.get(name)!r} there, {now.get(name)!r} now"
        for name in sorted({**(former or {}), **now})
        if former is not None and former.get(name) != now.get(name)
    ]
    if different:
        raise DataError(
            f"{out}: was made with other options, and the two are never mixed; give a new folder, or remove this one. "
            "Different:\n  " + "\n  ".join(different)
        )


@contextlib.contextmanager
def _only_run(out: Path) -> Iterator[None]:
    """Holds the folder's lock, which the system releases however this process ends."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / LOCK_FILE).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"{out}: another run is writing this store; wait for its end") from error
        yield
