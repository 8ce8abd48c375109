"""Real training steps of the 8 B model with random weights on one GPU: time, speed and memory of every stage.

    python -m scripts.bench.gpu_step [--budget-s 540] [--out gpu_step.json] [--stages stage2 stage1 stage3]
    python -m scripts.bench.gpu_step --size tiny --device cpu     # the same code in seconds

Our loop's step on our model, for micro-batch and checkpointing choices, with flash-attention (where installed) and with
compiled blocks, beside the same step written plainly with transformers (scripts/bench/plain_model.py), whose loss must
be equal. Noise in the place of videos: loading is not measured. FLOPs are model FLOPs (exo2ego/model/cost.py), without
recomputation; MFU is relative to the GPU's data sheet. Variants that do not fit into the budget are listed.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.table import Table
from rich.text import Text

from exo2ego.console import console
from exo2ego.provenance import provenance
from exo2ego.storage import write_json
from exo2ego.train.hardware import find_gpu
from scripts.bench.step_variants import Row, StageBench, Variant, variants_of

LOSS_TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}
"""Relative, ours to plain: other kernels sum in another order, and bf16 has three digits."""
COMPILE_S, SETUP_S = 90.0, 8.0
"""Assumed for compiling a stage's blocks, and for counting FLOPs and making a batch of the real size, seconds."""
CLOCKS = "name,driver_version,clocks.sm,clocks.mem,temperature.gpu,power.draw,memory.used"


def matmul_ceiling(device: torch.device) -> float:
    """Returns the speed of one large matrix product on random values, 1e12 operations per second."""
    on_gpu = device.type == "cuda"
    size, dtype, repeats = (8192, torch.bfloat16, 20) if on_gpu else (512, torch.float32, 5)
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(repeats):
            left @ right
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append((time.perf_counter() - began) / repeats)
    return 2 * size**3 / min(seconds) / 1e12


def clocks(device: torch.device) -> str | None:
    """Returns what the driver says of the GPU now."""
    if device.type != "cuda" or shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", f"--query-gpu={CLOCKS}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.strip() or done.stderr.strip()


class Clock:
    """The time that is left, and what a variant will take by what those before it took."""

    def __init__(self, budget_s: float) -> None:
        self.end = time.monotonic() + budget_s

    def left_s(self) -> float:
        """Returns the seconds that are left."""
        return self.end - time.monotonic()

    def estimate_s(self, variant: Variant, known: Sequence[Row], num_steps: int) -> float:
        """Returns what a variant takes: as long per pair as the slowest of its stage, and half as much again."""
        per_pair = [max(row.step_s) / (row.variant.clips * row.variant.views) for row in known if row.step_s]
        step_s = max(per_pair, default=0.0) * variant.clips * variant.views
        return SETUP_S + num_steps * 1.5 * step_s + (COMPILE_S if variant.compiled else 0)


def measure_stage(name: str, options: argparse.Namespace, clock: Clock, share_s: float) -> tuple[list[Row], list[str]]:
    """Measures a stage's variants until its share of the time is spent; returns the rows and what was left out."""
    device, end = torch.device(options.device), clock.left_s() - share_s
    bench = StageBench(name, options, device)
    rows: list[Row] = []
    left_out: list[str] = []
    flash = device.type == "cuda" and importlib.util.find_spec("flash_attn") is not None
    for variant in variants_of(name, flash=flash, compiled=not options.no_compiled):
        needed_s = clock.estimate_s(variant, rows, options.warm_up + options.steps) if options.size == "paper" else 0.0
        if clock.left_s() - needed_s < end:
            left_out.append(f"{variant.stage} {variant.name} {variant.clips} x {variant.views} {variant.recomputed}")
            continue
        rows.append(bench.measure(variant))
        console.print(progress(rows[-1]), highlight=False)
    require_equal_losses(rows, options.precision)
    return rows, left_out


def progress(row: Row) -> Text:
    """Returns a line as soon as a variant is done: a run that is cut off has shown what it had."""
    seconds = f"{statistics.median(row.step_s):.3f} s" if row.step_s else row.fault
    shown = f"{row.variant.stage} {row.variant.name} {row.variant.clips} x {row.variant.views}: {seconds}"
    return Text(f"{shown}, loss {row.loss}, peak {row.peak_gib} GiB")


def require_equal_losses(rows: Sequence[Row], precision: str) -> None:
    """Marks variants whose loss is not that of the first one with as many clips: their times mean nothing."""
    first: dict[tuple[int, int, str], float] = {}
    for row in rows:
        if row.loss is None:
            continue
        expected = first.setdefault((row.variant.clips, row.variant.views, row.variant.losses), row.loss)
        if abs(row.loss - expected) > LOSS_TOLERANCE[precision] * abs(expected):
            row.fault = f"loss {row.loss:.5f} instead of {expected:.5f}"


def render(rows: Sequence[Row], peak_tflops: float | None, ceiling: float, title: str) -> Table:
    """Returns the one table."""
    columns = ["stage", "way", "clips x views", "recomputed", "s/step (range)", "clips/s", "pairs/s", "tokens/s"]
    columns += ["MFU", "with recomputed", "of matmul", "peak GiB (predicted)", "faster than plain"]
    table = Table(*columns, title=title)
    plain = {row.variant.stage: row for row in rows if row.variant.plain and row.step_s}
    for row in rows:
        variant, numbers = row.variant, row.figures(peak_tflops, ceiling)
        how = "all" if len(variant.recomputed) == 4 else ", ".join(variant.recomputed) or "none"
        what = (variant.stage, variant.name, f"{variant.clips} x {variant.views}", how)
        if row.fault or not numbers:
            table.add_row(*what, row.fault)
            continue
        times = f"{numbers['median_s']:.3f} ({min(row.step_s):.3f}-{max(row.step_s):.3f})"
        speeds = (f"{numbers[key]:.2f}" for key in ("clips_per_s", "pairs_per_s"))
        shares = (_percent(numbers[key]) for key in ("mfu", "hfu", "share_of_ceiling"))
        peaks = f"{_number(row.peak_gib)} ({_number(row.predicted_gib)})"
        speeds = (*speeds, f"{numbers['tokens_per_s']:,.0f}")
        table.add_row(*what, times, *speeds, *shares, peaks, _ratio(row, plain.get(variant.stage)))
    return table


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _ratio(row: Row, plain: Row | None) -> str:
    """Returns the speed per clip relative to the plain step of the same stage with one view per clip."""
    if plain is None or row.variant.views != plain.variant.views or row.variant.losses != plain.variant.losses:
        return "-"
    per_clip = [statistics.median(each.step_s) / each.variant.clips for each in (plain, row)]
    return f"{per_clip[0] / per_clip[1]:.2f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints the table, writes the JSON; returns 1 when a variant's loss was wrong or all failed."""
    options = parse(arguments)
    torch.set_num_threads(options.threads or torch.get_num_threads())
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    device, clock = torch.device(options.device), Clock(options.budget_s)
    before, ceiling = clocks(device), matmul_ceiling(device)
    rows: list[Row] = []
    left_out: list[str] = []
    for number, name in enumerate(options.stages):
        share_s = clock.left_s() / (len(options.stages) - number)
        measured, omitted = measure_stage(name, options, clock, share_s)
        rows += measured
        left_out += omitted
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    device_name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    gpu = find_gpu(device_name)
    peak = gpu.peak_tflops if gpu is not None else None
    what = f"{options.size} model, {options.preset} preset, {options.precision}"
    console.print(render(rows, peak, ceiling, f"{what}, {device_name}, matmul {ceiling:.3g} TFLOP/s"))
    console.print(*(f"left out for lack of time: {name}" for name in left_out), sep="\n", highlight=False)
    report = {
        "provenance": provenance(vars(options), seed=0),
        "device": device_name,
        "clocks": {"before": before, "after": clocks(device)},
        "peak_tflops": peak,
        "matmul_tflops": ceiling,
        "rows": [asdict(row) | row.figures(peak, ceiling) for row in rows],
        "left_out": left_out,
    }
    write_json(Path(options.out), report)
    return int(not any(row.step_s for row in rows) or any((row.fault or "").startswith("loss") for row in rows))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the command line's options."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.gpu_step", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--size", choices=("paper", "small", "tiny"), default="paper", help="paper: 8 B")
    parser.add_argument("--preset", default="recommended", help="folder of stages/configs")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--stages", nargs="+", default=["stage2", "stage1", "stage3"], help="in this order")
    parser.add_argument("--budget-s", type=float, default=540, help="seconds after which no variant is started")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before the timed ones")
    parser.add_argument("--steps", type=int, default=7, help="timed steps of a variant")
    parser.add_argument("--no-compiled", action="store_true", help="leave the compiled variants out")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads")
    parser.add_argument("--out", default="gpu_step.json", help="JSON with every step's time")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
