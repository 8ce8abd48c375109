"""How fast one core renders the generated world: `python scripts/bench/synthetic_rendering.py`.

One take-second is one second (30 frames) of all cameras of a take, simulated, drawn, encoded and written to disk. The
CPU figure is the one to compare when other processes share the machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.table import Table

from data_builders.synthetic.config import SyntheticConfig
from data_builders.synthetic.corpus import render_take, simulate
from data_builders.synthetic.takes import TakeSpec, plan_takes
from exo2ego.console import console


def measure(action: Callable[[], object]) -> tuple[float, float]:
    """Returns wall-clock and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - cpu


def render_once(config: SyntheticConfig, spec: TakeSpec) -> None:
    """Simulates and writes a take into a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        render_take(config, simulate(config, spec), Path(folder))


def main() -> None:
    """Prints a row per frame size: the fastest of several takes, after one that warms up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frame-sizes", type=int, nargs="+", default=[32, 64, 128], help="pixels")
    parser.add_argument("--exo-cameras", type=int, default=4, help="exocentric cameras beside the egocentric one")
    parser.add_argument("--takes", type=int, default=5, help="takes of 30 s per frame size")
    arguments = parser.parse_args()
    table = Table("ego frame", "exo frame", "views", "take-s per CPU-s", "take-s per wall-s", "us per frame (CPU)")
    for frame_size in arguments.frame_sizes:
        config = SyntheticConfig(
            takes=arguments.takes + 1, frame_size=frame_size, exo_cameras=arguments.exo_cameras, traps=False
        )
        times = [measure(lambda spec=spec, config=config: render_once(config, spec)) for spec in plan_takes(config)]  # type: ignore[misc]
        wall_s, cpu_s = (min(values) for values in zip(*times[1:], strict=True))
        views = 1 + config.exo_cameras
        table.add_row(
            f"{frame_size} x {frame_size}",
            f"{config.exo_width} x {frame_size}",
            str(views),
            f"{config.seconds_per_take / cpu_s:.0f}",
            f"{config.seconds_per_take / wall_s:.0f}",
            f"{1e6 * cpu_s / (config.num_frames * views):.0f}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
