"""How fast a run is: model FLOPs per second, their share of the GPUs' peak (MFU), and the means of the whole run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepCost:
    """Model FLOPs of a step from what it held: near enough linear, for text is short beside video."""

    per_clip: float
    per_token: float

    def flops(self, num_clips: float, num_tokens: float) -> float:
        """Returns the forward and backward FLOPs of clips with `num_tokens` tokens in all, video tokens included."""
        return self.per_clip * num_clips + self.per_token * num_tokens


class SpeedMeter:
    """Adds model FLOPs to the metrics of a step, and sums up the steps of this process.

    MFU counts forward and backward without recomputation, against the dense bf16 peak of all GPUs; without a known
    peak there is none. `cost` is None where the operations could not be counted.
    """

    def __init__(self, cost: StepCost | None, peak_flops: float | None) -> None:
        self.cost = cost
        self.peak_flops = peak_flops
        self.num_steps = 0
        self.seconds = self.waited_s = self.samples = self.flops = 0.0

    def measured(self, metrics: dict[str, float]) -> dict[str, float]:
        """Returns what a step's metrics say of its speed: `model_tflops_per_s`, and `mfu` as a fraction."""
        seconds = metrics["seconds"]
        samples = metrics["samples_per_s"] * seconds
        self.num_steps += 1
        self.seconds += seconds
        self.samples += samples
        self.waited_s += metrics["data_wait_share"] * seconds
        if self.cost is None:
            return {}
        flops = self.cost.flops(samples, metrics["sequence_tokens"])
        self.flops += flops
        found = {"model_tflops_per_s": flops / seconds / 1e12}
        if self.peak_flops is not None:
            found["mfu"] = flops / seconds / self.peak_flops
        return found

    def summary(self, elapsed_s: float) -> str:
        """Returns the means over the steps of this process; `elapsed_s` includes checkpoints."""
        if not self.num_steps:
            return "no steps"
        speed = ""
        if self.cost is not None:
            per_s = self.flops / self.seconds
            speed = speed_text(per_s / 1e12, None if self.peak_flops is None else per_s / self.peak_flops)
        return (
            f"{self.num_steps:,} steps in {elapsed_s / 3600:.2f} h: {self.samples / self.seconds:.1f} clips/s  {speed}"
            f"data wait {100 * self.waited_s / self.seconds:.0f} %"
        )


def speed_text(tflops_per_s: float, mfu: float | None) -> str:
    """Returns model FLOPs per second for the console, with a share of the peak where it is known."""
    return f"{tflops_per_s:.3g} model TFLOP/s  " + ("" if mfu is None else f"MFU {100 * mfu:.1f} %  ")
