"""The data loader: resuming, reading ahead, memory over time, and starting with a very large table.

    OMP_NUM_THREADS=1 python -m scripts.bench.loader [--clips 240] [--rounds 3] [--soak 2000] [--rows 10000000]

1. CPU milliseconds until a resumed loader knows its first samples at step 100 and at step 1,000,000 of 1.1 M samples,
   beside a loop that skips; the samples must be those of an uninterrupted run.
2. Clips per second with two workers relative to twice the rate of one process, and how long a consumer waits that takes
   70 % of what they deliver: 0.68 s clips of a 448p video, down to pixels of 16 x 336 x 336.
3. Growth of resident memory over many samples (Theil-Sen slope after a tenth of them).
4. CPU seconds and memory of opening a memory-mapped table, in a fresh process, until the first sample is known.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy
import psutil
import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import torch
import transformers
from rich.table import Table

from exo2ego.config import load_config
from exo2ego.console import console
from exo2ego.data.clips import CLIP_SCHEMA, read_clips
from exo2ego.data.pairing import MicroBatches, Sample, SampleOrder
from exo2ego.model.options import SmallLanguageOptions
from exo2ego.model.small_language import small_mistral, train_tokenizer
from exo2ego.records import Clip
from exo2ego.train.loader import Loader, open_loader
from exo2ego.train.preparation import Prepared, prepare
from scripts.bench.random_stages import CONFIGS
from scripts.bench.side_by_side import in_turns, timed
from stages.init_ego import InitEgo, InitEgoConfig

NUM_CLIPS, MEAN_VIEWS = 261_300, 4.29  # Exo2Ego Table 1: 1.1M pairs
STEPS = (100, 1_000_000)
SKIPPED_STEPS = 200
VIDEO_S, CLIP_S = 60.0, 0.68
CONSUMED = 0.7
ROWS_AT_A_TIME = 100_000
GOALS = {"resume_ms": 50, "workers": 0.92, "kb_per_sample": 0.2, "start_s": 1, "start_mb": 150}


def measure_resume(rounds: int) -> Table:
    """Returns what it takes to know the first samples of a step."""
    num_views = numpy.random.default_rng(0).choice([4, 5], NUM_CLIPS, p=[5 - MEAN_VIEWS, MEAN_VIEWS - 4])

    def resumed(step: int) -> list[Sample]:
        return next(iter(of_steps(SampleOrder(num_views, "all_pairs", seed=0), step)))

    def skipped() -> list[Sample]:
        batches = iter(of_steps(SampleOrder(num_views, "all_pairs", seed=0), 0, SKIPPED_STEPS + 1))
        return next(islice(batches, 2 * SKIPPED_STEPS, None))

    uninterrupted = skipped()

    def check(name: str, samples: list[Sample]) -> None:
        if "skip" in name:
            assert samples == uninterrupted == resumed(SKIPPED_STEPS), "resuming gives other samples"

    ways = {f"{step:,}": timed(lambda step=step: resumed(step)) for step in STEPS}
    seconds = in_turns(ways | {f"{SKIPPED_STEPS} by skipping": timed(skipped)}, rounds, check)
    title = f"{num_views.sum():,} samples, global batch 256 on 16 processes"
    table = Table("resume at step", "CPU ms to the first samples, best", title=title)
    for name, took in seconds.items():
        table.add_row(name, f"{min(took) * 1000:.1f}")
    first, last = (min(seconds[f"{step:,}"]) for step in STEPS)
    table.caption = f"ratio {last / first:.3f}, goal 1.05; goal {GOALS['resume_ms']} ms"
    return table


def of_steps(order: SampleOrder, start: int, end: int | None = None) -> MicroBatches:
    """Returns the micro-batches of process 0 of 16, two per step."""
    sizes = {"local_size": 8, "accumulation": 2, "process_index": 0, "num_processes": 16}
    return MicroBatches(order, **sizes, start_step=start, end_step=end or start + 1)


def prepared_run(folder: Path, num_clips: int, num_workers: int, *, real_size: bool) -> Prepared:
    """Returns a stage on clips of one video, read at the model's real input size or at the smallest."""
    tokenizer = train_tokenizer(["C lifts the red cup."], 320)
    language, table = folder / "language", folder / "clips.parquet"
    if not table.exists():
        _write_corpus(folder, table, num_clips)
        small_mistral(SmallLanguageOptions(hidden_size=16, num_layers=1, num_heads=2), tokenizer).save_pretrained(
            language
        )
        tokenizer.save_pretrained(str(language))
    side, patch, frames = (336, 14, 16) if real_size else (32, 4, 2)
    tower = {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    tower |= {"num_attention_heads": 2, "image_size": side, "patch_size": patch}
    overrides = [
        f"data.table={table}",
        f"data.root={folder}",
        f"data.num_workers={num_workers}",
        f"model.language_model.from_pretrained={language}",
        f"model.vision_tower.architecture={json.dumps(tower)}",
        f"model.num_frames={frames}",
        "batch={global_size: 8, local_size: 8}",
        "max_steps=1000000",
        "epochs=100000",
    ]
    config = load_config(InitEgoConfig, CONFIGS / "tiny" / "init_ego.yaml", overrides)
    return prepare(InitEgo(config), None, num_processes=1)


def _write_corpus(folder: Path, table: Path, num_clips: int) -> None:
    from scripts.bench.video_decoding import render

    render(folder / "ego.mp4", VIDEO_S, 30)
    starts_s = numpy.random.default_rng(1).uniform(0, VIDEO_S - CLIP_S, num_clips)
    rows = [_clip(number, float(start_s)).to_row() for number, start_s in enumerate(starts_s)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=CLIP_SCHEMA), table)


def _clip(number: int, start_s: float) -> Clip:
    return Clip(
        clip_id=f"take/0/{number}",
        take_uid="uid",
        take_name="take",
        start_s=start_s,
        end_s=start_s + CLIP_S,
        timestamp_s=start_s,
        text="C lifts the red cup.",
        annotator="1",
        ego_video="ego.mp4",
        exo_videos=["ego.mp4"] * 4,
    )


class _Alone:
    """One process."""

    process_index, num_processes = 0, 1


def loader_of(prepared: Prepared, start_step: int = 0) -> Loader:
    """Returns the loader of a run in one process."""
    return open_loader(prepared, _Alone(), start_step)  # type: ignore[arg-type]


def tree_cpu_s() -> float:
    """Returns the CPU seconds of this process and of all below it that still run."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def drain(batches: Iterator[Any], num_batches: int, pause_s: float = 0.0) -> dict[str, float]:
    """Takes batches, with a pause after each; returns elapsed, CPU and waiting seconds per batch, without the first."""
    next(batches)
    began, cpu, waited = time.perf_counter(), tree_cpu_s(), 0.0
    for _ in range(num_batches):
        asked = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - asked
        time.sleep(pause_s)
    elapsed = time.perf_counter() - began
    return {
        "elapsed": elapsed / num_batches,
        "cpu": (tree_cpu_s() - cpu) / num_batches,
        "waited": waited / num_batches,
    }


def measure_workers(folder: Path, num_clips: int, rounds: int) -> Table:
    """Returns what two workers deliver, and how long a slower consumer waits for them."""
    num_batches = num_clips // 8
    alone, together = (prepared_run(folder, num_clips, workers, real_size=True) for workers in (0, 2))
    require_same_batches(alone)
    taken: list[tuple[dict[str, float], dict[str, float], dict[str, float]]] = []
    for _ in range(rounds):
        one = drain(iter(loader_of(alone)), num_batches)
        batches = iter(loader_of(together))
        two = drain(batches, num_batches)
        stalled = drain(batches, num_batches, pause_s=two["elapsed"] / CONSUMED)
        batches.close()  # type: ignore[attr-defined]
        taken.append((one, two, stalled))
    ones, twos, stalls = zip(*taken, strict=True)
    rate_of = [one["elapsed"] / (2 * two["elapsed"]) for one, two in zip(ones, twos, strict=True)]
    cpu_of = [one["cpu"] / two["cpu"] for one, two in zip(ones, twos, strict=True)]
    stall = [each["waited"] / each["elapsed"] for each in stalls]
    table = Table("figure", "median (range)", "goal", title=f"{num_batches} batches of 8 clips, {rounds} rounds")
    ms_per_clip = [one["cpu"] * 125 for one in ones]
    table.add_row("CPU ms per clip, one process", _range(ms_per_clip, 1), "")
    table.add_row("the same over that with two workers", _range(cpu_of, 2), "")
    table.add_row("clips/s of two workers over twice one process", _range(rate_of, 2), f">= {GOALS['workers']}")
    table.add_row("waiting, consumer at 70 % of that", _range([100 * s for s in stall], 1) + " %", "<= 1 %")
    return table


def require_same_batches(prepared: Prepared) -> None:
    """Raises `AssertionError` when a loader that starts at step 2 gives other samples than one that comes to it."""
    came = next(islice(iter(loader_of(prepared)), 2, None))
    started = next(iter(loader_of(prepared, 2)))
    assert came.sample_ids == started.sample_ids
    assert torch.equal(came.pixels, started.pixels)


def _range(values: Sequence[float], digits: int) -> str:
    middle, low, high = (f"{value:.{digits}f}" for value in (numpy.median(values), min(values), max(values)))
    return f"{middle} ({low} to {high})"


def measure_growth(folder: Path, num_samples: int) -> Table:
    """Returns the growth of this process's memory while a loader runs in it."""
    batches = iter(loader_of(prepared_run(folder, 240, 0, real_size=False)))
    process, seen, resident = psutil.Process(), [], []
    for number in range(0, num_samples, 8):
        next(batches)
        if number >= num_samples / 10:
            seen.append(number)
            resident.append(process.memory_info().rss)
    counts, sizes = numpy.asarray(seen), numpy.asarray(resident)
    first, second = numpy.triu_indices(len(counts), k=1)
    slope = float(numpy.median((sizes[second] - sizes[first]) / (counts[second] - counts[first]))) / 1024
    table = Table(
        "samples", "KB per sample", "MB in all", title="growth of resident memory after a tenth of the samples"
    )
    table.add_row(f"{num_samples:,}", f"{slope:.3f}", f"{(sizes[-1] - sizes[0]) / 1e6:.2f}")
    table.caption = f"goal {GOALS['kb_per_sample']} KB per sample, 10 MB"
    return table


def write_index(path: Path, num_rows: int) -> None:
    """Writes a clip table for memory mapping; its rows repeat."""
    rows = [_clip(number, 1.0).to_row() for number in range(min(ROWS_AT_A_TIME, num_rows))]
    (batch,) = pyarrow.Table.from_pylist(rows, schema=CLIP_SCHEMA).combine_chunks().to_batches()
    with pyarrow.ipc.new_file(str(path), CLIP_SCHEMA) as file:
        for _ in range(num_rows // len(rows)):
            file.write_batch(batch)


def start_up(path: Path, pairing: str) -> dict[str, float]:
    """Opens a table and finds the first sample's clip; returns CPU seconds and the growth of this process's memory."""
    process = psutil.Process()
    before, began = process.memory_info().rss, time.process_time()
    clips = read_clips(path)
    opened_s = time.process_time() - began
    views = clips.num_exo_videos() if pairing != "ego" else numpy.ones(len(clips), dtype=numpy.int64)
    sample = SampleOrder(views, pairing, seed=0).at(0)  # type: ignore[arg-type]
    assert clips[sample.index].text
    return {
        "opened_s": opened_s,
        "first_s": time.process_time() - began,
        "mb": (process.memory_info().rss - before) / 1e6,
        "peak_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 1e6,
    }


def measure_start_up(folder: Path, num_rows: int) -> Table:
    """Returns the start of a run on a table of many rows, each pairing in a process of its own."""
    path = folder / "index.arrow"
    write_index(path, num_rows)
    title = (
        f"{num_rows:,} rows, {path.stat().st_size / 1e9:.2f} GB, goal {GOALS['start_s']} s and {GOALS['start_mb']} MB"
    )
    table = Table("pairing", "CPU s to open", "CPU s to the first sample", "MB then", "MB at most", title=title)
    for pairing in ("ego", "grouped", "all_pairs"):
        command = [sys.executable, "-m", "scripts.bench.loader", "--start-up", str(path), pairing]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        took = json.loads(done.stdout.splitlines()[-1])
        table.add_row(
            pairing, f"{took['opened_s']:.3f}", f"{took['first_s']:.2f}", f"{took['mb']:.0f}", f"{took['peak_mb']:.0f}"
        )
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.loader", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--clips", type=int, default=240, help="clips per measurement of the workers")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions, in turns")
    parser.add_argument("--soak", type=int, default=2000, help="samples over which memory is watched")
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows of the large table")
    parser.add_argument("--start-up", nargs=2, metavar=("TABLE", "PAIRING"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    if options.start_up:
        print(json.dumps(start_up(Path(options.start_up[0]), options.start_up[1])))
        return
    console.print(measure_resume(options.rounds))
    with tempfile.TemporaryDirectory() as folder:
        console.print(measure_workers(Path(folder), options.clips, options.rounds))
        console.print(measure_growth(Path(folder), options.soak))
        console.print(measure_start_up(Path(folder), options.rows))


if __name__ == "__main__":
    main()
