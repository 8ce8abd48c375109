"""What a clip with K exo views costs in stage 2: all pairs, all views at once, or one view.

    OMP_NUM_THREADS=1 python -m scripts.bench.pairing_cost [--views 4] [--rounds 5]

`all_pairs` takes K samples per clip, each with the ego video, one exo video and the text; `grouped` one with all K;
`one_view` one with one. Forward and backward on a small model: CPU milliseconds in turns, FLOPs as torch counts them,
the most bytes alive at a time. Losses and gradients of `grouped` must be the mean over the clip's pairs. Then the FLOPs
of the real model, counted on the meta device.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from exo2ego.console import console
from exo2ego.data.batch import Batch
from exo2ego.model.skeleton import build_skeleton
from exo2ego.train.prediction import make_trainable, skeleton_batch, trace_stage
from scripts.bench.live_bytes import LiveBytes
from scripts.bench.loss_paths import Result, require_agreement
from scripts.bench.random_stages import Size, build_on, random_batch, random_stage
from scripts.bench.side_by_side import in_turns, ratio_interval, timed, with_interval

CLIPS = 2
TEXT_TOKENS, TARGET_TOKENS = 48, 46


@dataclass(frozen=True)
class Pairing:
    """The micro-batch that takes all clips once, and how many pairs it learns from."""

    batch: Batch
    pairs: int
    samples_per_clip: int


def split_into_pairs(grouped: Batch) -> Batch:
    """Returns a sample per (clip, view): the ego video and the text once for every view."""
    assert grouped.exo_pixels is not None
    assert grouped.exo_patch_mask is not None
    views = grouped.exo_pixels.shape[1]
    repeated: dict[str, Any] = {
        name: getattr(grouped, name).repeat_interleave(views, dim=0)
        for name in ("input_ids", "attention_mask", "labels", "pixels", "patch_mask", "clip_weight")
    }
    return replace(
        grouped,
        **repeated,
        exo_pixels=grouped.exo_pixels.flatten(0, 1).unsqueeze(1),
        exo_patch_mask=grouped.exo_patch_mask.flatten(0, 1).unsqueeze(1),
        view_weight=torch.ones(len(repeated["input_ids"]), 1),
    )


def first_view(grouped: Batch) -> Batch:
    """Returns the clips with their first view alone."""
    assert grouped.exo_pixels is not None
    assert grouped.exo_patch_mask is not None
    return replace(
        grouped,
        exo_pixels=grouped.exo_pixels[:, :1],
        exo_patch_mask=grouped.exo_patch_mask[:, :1],
        view_weight=torch.ones(len(grouped.input_ids), 1),
    )


def measure(size: Size, views: int, rounds: int) -> Table:
    """Returns the table of the small model; raises `AssertionError` where `grouped` is not the mean of the pairs."""
    stage = random_stage("stage2", size, "recommended", "precision=fp32", "gradient_checkpointing=[]")
    model = build_on(stage, torch.device("cpu"))
    grouped = random_batch(
        stage, model, num_clips=CLIPS, num_views=views, text_tokens=TEXT_TOKENS, target_tokens=TARGET_TOKENS
    )
    pairings = {
        "grouped": Pairing(grouped, CLIPS * views, 1),
        "all_pairs": Pairing(split_into_pairs(grouped), CLIPS * views, views),
        "one_view": Pairing(first_view(grouped), CLIPS, 1),
    }
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def step(pairing: Pairing) -> Result:
        terms = stage.losses(model, pairing.batch)
        total = torch.stack([term.weight * term.total for term in terms.values()]).sum() / pairing.samples_per_clip
        total.backward()
        result = {name: term.total.detach() / pairing.samples_per_clip for name, term in terms.items()}
        result["gradients"] = torch.cat([p.grad.flatten() for p in trained if p.grad is not None])
        model.zero_grad()
        return result

    def bound(pairing: Pairing) -> Callable[[], Result]:
        return lambda: step(pairing)

    ways = {name: bound(pairing) for name, pairing in pairings.items()}
    expected = ways["grouped"]()

    def check(name: str, result: Result) -> None:
        if name == "all_pairs":
            require_agreement(name, result, expected)

    seconds = in_turns({name: timed(way) for name, way in ways.items()}, rounds, check)
    columns = ("CPU ms per clip", "per pair", "x grouped, median (95 %)", "GFLOP per clip", "per pair", "MB at a time")
    table = Table("pairing", *columns, title=f"small model, {CLIPS} clips with {views} views, one micro-batch")
    for name, pairing in pairings.items():
        with FlopCounterMode(display=False) as flops:
            ways[name]()
        with LiveBytes() as alive:
            ways[name]()
        best, gflop = min(seconds[name]) * 1000, flops.get_total_flops() / 1e9
        table.add_row(
            name,
            f"{best / CLIPS:.0f}",
            f"{best / pairing.pairs:.0f}",
            with_interval(ratio_interval(seconds[name], seconds["grouped"])),
            f"{gflop / CLIPS:.2f}",
            f"{gflop / pairing.pairs:.2f}",
            f"{alive.peak / 1e6:.0f}",
        )
    return table


def real_model(views: int) -> Table:
    """Returns the FLOPs of the real model per clip and pair, and the activations of one clip."""
    stage = random_stage("stage2", "paper", "recommended")
    model, _ = build_skeleton(stage.config.model, stage.parts)
    make_trainable(stage, model)
    table = Table("pairing", "model TFLOP per clip", "per pair", "GiB of activations", title="the real model, counted")
    for name, (samples, shown) in {"grouped": (1, views), "all_pairs": (views, 1), "one_view": (1, 1)}.items():
        trace = trace_stage(stage, model, skeleton_batch(stage, model, 1, shown, TEXT_TOKENS, TARGET_TOKENS))
        tflop = trace.flops("model_flops") / 1e12 * samples
        pairs = 1 if name == "one_view" else views
        table.add_row(name, f"{tflop:.1f}", f"{tflop / pairs:.1f}", f"{trace.peak_bytes / 2**30:.1f}")
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.pairing_cost", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--views", type=int, default=4, help="exo views of every clip (Exo2Ego Table 1: 4.2)")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions, in turns")
    parser.add_argument("--size", choices=("small", "tiny"), default="small")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    console.print(measure(options.size, options.views, options.rounds))
    console.print(real_model(options.views))


if __name__ == "__main__":
    main()
