"""Memory of every stage with and without recomputation: what is predicted, what tensors take, what the process takes.

    OMP_NUM_THREADS=1 python -m scripts.bench.memory_phases [--clips 4]

Every row is a process of its own: a model of some ten million parameters with random weights in float32, one forward
and backward pass of the stage's losses on the CPU. "tensors" counts every storage from its making to its release;
"process" is the growth of the resident set over what it was before the passes, kernels' own buffers included. The
prediction comes from the meta device, as in `--dry-run`. All without weights, gradients and optimiser, which are exact.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from exo2ego.config import load_config
from exo2ego.console import console
from exo2ego.model.skeleton import build_skeleton
from exo2ego.train.stage import Stage
from exo2ego.train.stage_cost import make_trainable, skeleton_batch, trace_stage
from scripts.bench.live_bytes import LiveBytes

CONFIGS = Path(__file__).resolve().parents[2] / "stages" / "configs" / "paper"
STAGES = {"stage1": "Stage1", "stage2": "Stage2", "stage3": "Stage3"}
RECOMPUTED = ("", "towers,connector", "towers,connector,mappers,language_model")
TOWER = (
    "{model_type: clip_vision_model, hidden_size: 192, intermediate_size: 768, num_hidden_layers: 5, "
    "num_attention_heads: 4, image_size: 128, patch_size: 8}"
)
LANGUAGE = (
    "{model_type: mistral, vocab_size: 1024, hidden_size: 256, intermediate_size: 896, num_hidden_layers: 6, "
    "num_attention_heads: 4, num_key_value_heads: 2, sliding_window: null}"
)
SIZES = (
    *(f"model.vision_tower.architecture={TOWER}", "model.vision_tower.from_pretrained=null"),
    *(f"model.language_model.architecture={LANGUAGE}", "model.language_model.from_pretrained=null"),
    *("model.videollama2=null", "model.num_frames=8", "model.connector.depth=2", "model.mapper.width=32"),
    "precision=fp32",
)


def stage_of(name: str, recomputed: str) -> Stage[Any]:
    """Returns a stage of the paper with a small model."""
    module = importlib.import_module(f"stages.{name}")
    # the CPU's dropout keeps a float per element where CUDA's keeps a byte
    more = ["lora={rank: 16, alpha: 32, dropout: 0.0}"] if name == "stage3" else []
    values = [*SIZES, f"gradient_checkpointing=[{recomputed}]", *more]
    stage: Stage[Any] = getattr(module, STAGES[name])(load_config(module.CONFIG, CONFIGS / f"{name}.yaml", values))
    return stage


def measure(name: str, recomputed: str, num_clips: int, *, by_tensors: bool) -> float:
    """Runs one pass forward and backward; returns its peak in bytes, of tensors or of the process."""
    stage = stage_of(name, recomputed)
    model, _ = build_skeleton(stage.config.model, stage.parts)
    model.to_empty(device="cpu")
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data.normal_(std=0.02)
        else:  # positions
            tensor.copy_(torch.arange(tensor.numel()).view_as(tensor))
    make_trainable(stage, model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    batch = skeleton_batch(stage, model, num_clips, 1, 40, 20)
    batch.pixels = torch.randn(batch.pixels.shape)
    if batch.exo_pixels is not None:
        batch.exo_pixels = torch.randn(batch.exo_pixels.shape)

    def step() -> None:
        torch.stack([term.total for term in stage.losses(model, batch).values()]).sum().backward()

    gc.collect()
    if by_tensors:
        with LiveBytes() as live:
            step()
        return live.peak
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts from here
    before = status_bytes("VmRSS")
    step()
    return status_bytes("VmHWM") - before


def status_bytes(key: str) -> int:
    """Returns a memory figure of this process from the kernel."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def predict(name: str, recomputed: str, num_clips: int) -> float:
    """Returns the predicted peak of inputs left out, bytes: they were there before."""
    stage = stage_of(name, recomputed)
    model, _ = build_skeleton(stage.config.model, stage.parts)
    make_trainable(stage, model)
    trace = trace_stage(stage, model, skeleton_batch(stage, model, num_clips, 1, 40, 20))
    return trace.peak_bytes - trace.input_bytes


def in_child(name: str, recomputed: str, num_clips: int, by_tensors: bool) -> float:
    """Measures in a fresh process whose allocator gives memory back at once."""
    arguments = json.dumps([name, recomputed, num_clips, by_tensors])
    done = subprocess.run(
        [sys.executable, "-m", "scripts.bench.memory_phases", "--child", arguments],
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    """Parses the command line and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.memory_phases", description=__doc__)
    parser.add_argument("--clips", type=int, default=4, help="clips of the micro-batch")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.child is not None:
        name, recomputed, num_clips, by_tensors = json.loads(arguments.child)
        print(measure(name, recomputed, num_clips, by_tensors=by_tensors))
        return
    columns = ("stage", "recomputed", "predicted MB", "tensors MB", "ratio", "process MB", "ratio")
    table = Table(*columns, title=f"peak of one micro-batch of {arguments.clips} clips, float32 on the CPU")
    for name in STAGES:
        for recomputed in RECOMPUTED:
            expected = predict(name, recomputed, arguments.clips)
            tensors, process = (in_child(name, recomputed, arguments.clips, kind) for kind in (True, False))
            table.add_row(
                *(name, recomputed.replace(",", ", ") or "nothing", f"{expected / 1e6:.0f}"),
                *(f"{tensors / 1e6:.0f}", f"{expected / tensors:.2f}"),
                *(f"{process / 1e6:.0f}", f"{expected / process:.2f}"),
            )
    console.print(table)


if __name__ == "__main__":
    main()
