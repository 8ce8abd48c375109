"""What a checkpoint costs: bytes against 16 per trained weight, and seconds against writing as many bytes raw.

    OMP_NUM_THREADS=1 python -m scripts.bench.checkpoint [--parameters 25000000] [--rounds 5] [--folder .]

Trained weights and AdamW's two moments, in float32. The floor writes the same number of bytes to one file, waits for
the disk and hashes it; `torch.save` writes the same state without checksum or waiting. All in turns, elapsed seconds: a
checkpoint is waited for. What is read back must be equal bit for bit.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from exo2ego.console import console
from exo2ego.storage import hash_file
from exo2ego.train.checkpoint import load_optimizer_state, open_checkpoint, save_checkpoint
from scripts.bench.side_by_side import in_turns, ratio_interval, with_interval

NUM_TENSORS = 10
BYTES_PER_WEIGHT, GOAL_BYTES, GOAL_TIME = 16, 1.02, 1.25


def trained_state(num_parameters: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns trained weights, and the optimiser's state as torch gives it."""
    generator = torch.Generator().manual_seed(0)
    shape = (num_parameters // NUM_TENSORS,)
    weights = {f"layer{number}": torch.randn(shape, generator=generator) for number in range(NUM_TENSORS)}
    moments = {
        number: {"step": torch.tensor(1.0), "exp_avg": weight.clone(), "exp_avg_sq": weight.clone()}
        for number, weight in enumerate(weights.values())
    }
    return weights, {"state": moments}


def elapsed(work: Callable[[Path], int], folder: Path) -> Callable[[], tuple[float, int]]:
    """Returns a way that does the work in a fresh folder and returns the bytes that it says it wrote."""

    def way() -> tuple[float, int]:
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            began = time.perf_counter()
            written = work(Path(fresh))
            return time.perf_counter() - began, written

    return way


def measure(num_parameters: int, rounds: int, folder: Path) -> Table:
    """Returns the table; raises `AssertionError` when a tensor does not come back."""
    weights, moments = trained_state(num_parameters)
    raw = torch.cat([*weights.values()] * 3).numpy().tobytes()
    record = {"stage": "bench", "step": 1, "parent": None}

    def ours(fresh: Path) -> int:
        saved = save_checkpoint(fresh, record=record, trained=weights, optimizer_state=moments)
        return _bytes_in(saved.path)

    def floor(fresh: Path) -> int:
        with (fresh / "raw").open("wb") as stream:
            stream.write(raw)
            os.fsync(stream.fileno())
        hash_file(fresh / "raw")
        return len(raw)

    def unchecked(fresh: Path) -> int:
        torch.save({"weights": weights, "optimizer": moments}, fresh / "state.pt")
        return _bytes_in(fresh)

    written: dict[str, int] = {}
    ways = {"raw write, fsync, SHA-256": floor, "save_checkpoint": ours, "torch.save alone": unchecked}
    seconds = in_turns({name: elapsed(way, folder) for name, way in ways.items()}, rounds, written.__setitem__)
    require_exact(weights, moments, record, folder)
    low = seconds["raw write, fsync, SHA-256"]
    share = written["save_checkpoint"] / (BYTES_PER_WEIGHT * num_parameters)
    title = f"{num_parameters / 1e6:.0f} M trained weights, read back equal bit for bit"
    caption = f"{share:.3f} of {BYTES_PER_WEIGHT} B per weight, goal {GOAL_BYTES}; time goal {GOAL_TIME} of the floor"
    table = Table("way", "MB", "s, best", "x floor, best", "x floor, median (95 %)", title=title, caption=caption)
    for name, took in seconds.items():
        ratio = with_interval(ratio_interval(took, low))
        table.add_row(name, f"{written[name] / 1e6:.0f}", f"{min(took):.2f}", f"{min(took) / min(low):.2f}", ratio)
    return table


def require_exact(weights: dict[str, Tensor], moments: dict[str, Any], record: dict[str, Any], folder: Path) -> None:
    """Saves once more and reads everything back."""
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        path = save_checkpoint(Path(fresh), record=record, trained=weights, optimizer_state=moments).path
        checkpoint = open_checkpoint(path)
        tensors, state = checkpoint.tensors(), load_optimizer_state(checkpoint)
    assert tensors.keys() == weights.keys()
    assert all(torch.equal(tensors[name], weight) for name, weight in weights.items())
    for number, values in moments["state"].items():
        assert all(torch.equal(state["state"][number][name], value) for name, value in values.items())


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.checkpoint", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--parameters", type=int, default=25_000_000, help="trained weights")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions, in turns")
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk that is to be measured")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    console.print(measure(options.parameters, options.rounds, options.folder))


if __name__ == "__main__":
    main()
