"""Running the step over many videos: in processes of this machine, or over a Ray cluster."""

from __future__ import annotations

import importlib.util
import os
import queue
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, cast

from data_builders.clip_store.options import ClipStoreOptions
from data_builders.clip_store.supervised_worker import Limits, SupervisedWorker
from data_builders.clip_store.video_step import VideoJob, VideoStep
from exo2ego.errors import ConfigError

Outcomes = Generator[tuple[VideoJob, int], None, None]


def run_jobs(options: ClipStoreOptions, step: VideoStep, jobs: Sequence[VideoJob]) -> Outcomes:
    """Yields each job with what the step returned, in the order in which they are done."""
    limits = Limits(options.deadline_s, int(options.worker_memory_gb * 1e9))
    num_workers = min(options.workers, len(jobs))
    if not jobs:
        return _nothing()
    if options.engine == "ray" and not step.only_measure:
        require_ray()
        return _over_ray(options, step, limits, jobs, num_workers)
    return _in_processes(step, limits, jobs, num_workers)


def _nothing() -> Outcomes:
    yield from ()


def require_ray() -> None:
    """Raises `ConfigError` where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("--engine ray needs the package `ray`: pip install 'exo2ego[ray]', or use --engine processes")


def _in_processes(step: VideoStep, limits: Limits, jobs: Sequence[VideoJob], num_workers: int) -> Outcomes:
    workers = [SupervisedWorker(step, limits) for _ in range(num_workers)]
    idle: queue.SimpleQueue[SupervisedWorker] = queue.SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def run(job: VideoJob) -> int:
        worker = idle.get()
        try:
            return worker.run(job)
        finally:
            idle.put(worker)

    threads = ThreadPoolExecutor(num_workers, thread_name_prefix="video")
    try:
        futures = {threads.submit(run, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures.pop(future), future.result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.stop()
        threads.shutdown(wait=True)
        for worker in workers:
            worker.close()


class RayVideoStep:
    """The step as a Ray Data actor; its child process outlives a video, and an actor that dies is replaced by Ray."""

    def __init__(self, step: VideoStep, limits: Limits) -> None:
        self._worker = SupervisedWorker(step, limits)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Runs one job, and returns its number with what the step returned."""
        job: VideoJob = row["job"]
        return {"number": row["number"], "value": self._worker.run(job)}


def _over_ray(
    options: ClipStoreOptions, step: VideoStep, limits: Limits, jobs: Sequence[VideoJob], num_workers: int
) -> Outcomes:
    import ray

    started = not ray.is_initialized()
    if started:
        address = options.ray_address or os.environ.get("RAY_ADDRESS")
        # One more than the actors: Ray Data hands rows on in tasks of its own.
        own_cluster = {"num_cpus": num_workers + 1, "include_dashboard": False}
        ray.init(log_to_driver=False, **({"address": address} if address else own_cluster))
    try:
        rows = [{"number": number, "job": job} for number, job in enumerate(jobs)]
        table = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            cast("Callable[[dict[str, Any]], dict[str, Any]]", RayVideoStep),  # Ray makes the objects
            fn_constructor_args=(step, limits),
            concurrency=(1, num_workers) if num_workers > 1 else 1,
            num_cpus=1,
        )
        for result in table.iter_rows():
            yield jobs[int(result["number"])], int(result["value"])
    finally:
        if started:
            ray.shutdown()
