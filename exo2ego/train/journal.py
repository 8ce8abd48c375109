"""The training log: every step as JSONL; every `log_every` steps a console line, and TensorBoard where installed."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exo2ego.console import console
from exo2ego.storage import JsonlAppender, read_jsonl, write_jsonl
from exo2ego.train.speed import SpeedMeter, speed_text

METRICS = "metrics.jsonl"


def rewind(path: Path, keep: Callable[[int, dict[str, Any]], bool]) -> None:
    """Keeps the rows of a JSONL log that `keep(number, row)` says: those before the checkpoint that is continued."""
    if path.exists():
        JsonlAppender(path).close()  # cuts off a line that a kill left half-written
        write_jsonl(path, (row for number, row in enumerate(read_jsonl(path)) if keep(number, row)))


class Journal:
    """Writes the metrics of every step; on resume, forgets the steps after the checkpoint that is continued."""

    def __init__(
        self,
        run_dir: Path,
        *,
        start_step: int,
        total_steps: int,
        log_every: int,
        enabled: bool,
        speed: SpeedMeter | None = None,
    ) -> None:
        self.total_steps = total_steps
        self.log_every = log_every
        self._start = (time.monotonic(), start_step)
        self._speed = speed
        self._rows: JsonlAppender | None = None
        self._board: Any = None
        if not enabled:
            return
        rewind(run_dir / METRICS, lambda number, row: row["step"] <= start_step)
        self._rows = JsonlAppender(run_dir / METRICS)
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=start_step + 1)

    def record(self, step: int, metrics: dict[str, float]) -> None:
        """Records the metrics of the `step`-th optimiser step (counted from 1)."""
        if self._rows is None:
            return
        if self._speed is not None:
            metrics = metrics | self._speed.measured(metrics)
        self._rows.append({"step": step, **metrics})
        if step % self.log_every and step != self.total_steps:
            return
        console.print(self._line(step, metrics))
        if self._board is not None:
            for name, value in metrics.items():
                self._board.add_scalar(name, value, step)

    def _line(self, step: int, metrics: dict[str, float]) -> str:
        began, first = self._start
        remaining_s = (time.monotonic() - began) / max(1, step - first) * (self.total_steps - step)
        losses = "  ".join(f"{name[5:]} {value:.3f}" for name, value in metrics.items() if name.startswith("loss/"))
        return (
            f"step {step}/{self.total_steps}  loss {metrics['loss']:.4f}  {losses}  "
            f"norm {metrics['gradient_norm']:.2f}  lr {metrics['learning_rate']:.2e}  "
            f"{metrics['samples_per_s']:.1f} clips/s  {metrics['tokens_per_s']:,.0f} tokens/s  {_speed_of(metrics)}"
            f"wait {100 * metrics['data_wait_share']:.0f} %  peak {metrics['peak_memory_gb']:.1f} GB  "
            f"left {duration_text(remaining_s)}"
        )

    def summary(self) -> str:
        """Returns the means over the steps of this process, for the end of a run; empty where nothing is measured."""
        return "" if self._speed is None else self._speed.summary(time.monotonic() - self._start[0])

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._rows is not None:
            self._rows.close()
        if self._board is not None:
            self._board.close()


def _speed_of(metrics: dict[str, float]) -> str:
    if "model_tflops_per_s" not in metrics:
        return ""
    return speed_text(metrics["model_tflops_per_s"], metrics.get("mfu"))


def duration_text(seconds: float) -> str:
    """Returns a duration for people: 45 s, 12 min, 3 h 12 min, 2 d 5 h."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
