"""What the model leaves out of a training step, each beside the way that computes it, with equal results.

    OMP_NUM_THREADS=1 python -m scripts.bench.loss_paths [--rounds 7]

- logits at the label positions alone, against logits everywhere
- a frozen teacher without autograd, against one that autograd records, and one that gradients run through
- a tower without the layers that nobody reads, against all hidden states of the whole tower
- one connector call for x and F(x), against two

Forward and backward on a small model with the real depth of the tower. CPU milliseconds in turns, FLOPs as torch counts
them, and the most bytes alive at a time; losses and gradients must agree.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from exo2ego.console import console
from exo2ego.model.modeling import Exo2EgoForConditionalGeneration
from scripts.bench.live_bytes import LiveBytes
from scripts.bench.plain_model import features_of_whole, used_plainly
from scripts.bench.random_stages import Size, build_on, random_batch, random_stage
from scripts.bench.side_by_side import in_turns, ratio_interval, timed, with_interval

CLIPS, TEXT_TOKENS, TARGET_TOKENS = 2, 48, 46
RELATIVE_TOLERANCE = 1e-4
"""Of a gradient's norm: float32 sums over positions, or over a batch, in another order."""
Result = dict[str, Tensor]
"""What must agree: losses, features, gradients."""


@dataclass(frozen=True)
class Comparison:
    """Ways to the same result; the first is ours."""

    name: str
    ways: Mapping[str, Callable[[], Result]]


def label_logits(model: Exo2EgoForConditionalGeneration, batch: Any) -> Comparison:
    """The language model's loss from visual tokens, with logits at the labels or everywhere."""
    tokens = model.visual_tokens(batch.pixels, "ego").detach()

    def run(*, everywhere: bool) -> Result:
        visual = tokens.clone().requires_grad_(True)
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "visual_tokens": visual}
        if everywhere:
            logits = model(**inputs, use_cache=False).logits[:, :-1].flatten(0, 1).float()
            loss = nn.functional.cross_entropy(logits, batch.labels[:, 1:].flatten())
        else:
            loss = model(**inputs, labels=batch.labels).loss
        loss.backward()
        assert visual.grad is not None
        return {"loss": loss.detach(), "gradient of the visual tokens": visual.grad}

    ways = {"label positions": lambda: run(everywhere=False), "all positions": lambda: run(everywhere=True)}
    return Comparison("logits", ways)


def teacher(stage: Any, model: Exo2EgoForConditionalGeneration, batch: Any) -> Comparison:
    """Stage 2's whole step; what changes is whether autograd follows the teacher."""
    inner, trained = model.model, [parameter for parameter in model.parameters() if parameter.requires_grad]
    through = type(stage)(stage.config.model_copy(update={"train_teacher": True}))
    tower = inner.teacher_tower
    assert tower is not None

    def run(losses: Any, *, recorded: bool) -> Result:
        tower.requires_grad_(recorded)
        terms = losses.losses(model, batch)
        total = torch.stack([term.weight * term.total for term in terms.values()]).sum()
        total.backward()
        result = {name: term.total.detach() for name, term in terms.items()}
        result["gradients"] = torch.cat([p.grad.flatten() for p in trained if p.grad is not None])
        model.zero_grad()
        tower.requires_grad_(False)
        return result

    ways = {
        "no_grad": lambda: run(stage, recorded=False),
        "recorded, target detached": lambda: run(stage, recorded=True),
        "gradients run through": lambda: run(through, recorded=True),
    }
    return Comparison("frozen teacher, whole step", ways)


def truncated_tower(model: Exo2EgoForConditionalGeneration, batch: Any) -> Comparison:
    """The ego tower's features, forward and backward."""
    inner = model.model

    def run(encode: Callable[[], Tensor]) -> Result:
        features = encode()
        features.square().mean().backward()
        tower = inner.vision_tower.parameters()
        gradients = torch.cat([parameter.grad.flatten() for parameter in tower if parameter.grad is not None])
        model.zero_grad()
        return {"features": features.detach(), "gradients": gradients}

    def whole() -> Result:
        with used_plainly(model):
            return run(lambda: features_of_whole(inner.vision_tower, batch.pixels))

    ways = {
        "layers up to the used one": lambda: run(lambda: inner.features(batch.pixels, teacher=False)),
        "all layers, all hidden states": whole,
    }
    return Comparison("vision tower", ways)


def connector_calls(model: Exo2EgoForConditionalGeneration, batch: Any) -> Comparison:
    """The connector on x and F(x), forward and backward."""
    inner = model.model
    with torch.no_grad():
        own = inner.features(batch.pixels, teacher=False)
        mapped = inner.map(inner.mapper_f, own)

    def run(connect: Callable[[Tensor, Tensor], tuple[Tensor, ...]]) -> Result:
        leaves = [value.clone().requires_grad_(True) for value in (own, mapped)]
        tokens = torch.cat(connect(*leaves), dim=1)
        tokens.square().mean().backward()
        gradients = torch.cat(
            [p.grad.flatten() for p in (*leaves, *inner.connector.parameters()) if p.grad is not None]
        )
        model.zero_grad()
        return {"tokens": tokens.detach(), "gradients": gradients}

    ways = {
        "one call": lambda: run(lambda x, fx: inner.tokens(torch.cat((x, fx))).chunk(2)),
        "two calls": lambda: run(lambda x, fx: (inner.tokens(x), inner.tokens(fx))),
    }
    return Comparison("connector on [x; F(x)]", ways)


def comparisons(size: Size) -> list[Comparison]:
    """Returns all of them, on one random stage 2."""
    stage = random_stage("stage2", size, "recommended", "precision=fp32", "gradient_checkpointing=[]")
    torch.manual_seed(0)
    model = build_on(stage, torch.device("cpu"))
    batch = random_batch(stage, model, num_clips=CLIPS, text_tokens=TEXT_TOKENS, target_tokens=TARGET_TOKENS)
    return [
        label_logits(model, batch),
        teacher(stage, model, batch),
        truncated_tower(model, batch),
        connector_calls(model, batch),
    ]


def require_agreement(name: str, result: Result, expected: Result) -> None:
    """Raises `AssertionError` where a result is further off than rounding."""
    assert result.keys() == expected.keys(), name
    for key, value in result.items():
        error = float((value - expected[key]).norm()) / (float(expected[key].norm()) or 1.0)
        assert error <= RELATIVE_TOLERANCE, f"{name}: {key} differs by {error:.1e}"


def measure(comparison: Comparison, rounds: int, table: Table) -> None:
    """Adds a row per way to the table."""
    ours = next(iter(comparison.ways))
    expected = comparison.ways[ours]()
    seconds = in_turns(
        {name: timed(way) for name, way in comparison.ways.items()},
        rounds,
        lambda name, result: require_agreement(f"{comparison.name}, {name}", result, expected),
    )
    for name, way in comparison.ways.items():
        with FlopCounterMode(display=False) as flops:
            way()
        with LiveBytes() as alive:
            way()
        table.add_row(
            comparison.name if name == ours else "",
            name,
            f"{min(seconds[name]) * 1000:.0f}",
            f"{min(seconds[name]) / min(seconds[ours]):.2f}",
            with_interval(ratio_interval(seconds[name], seconds[ours])),
            f"{flops.get_total_flops() / 1e9:.2f}",
            f"{alive.peak / 1e6:.1f}",
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.loss_paths", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=7, help="repetitions, in turns")
    parser.add_argument("--size", choices=("small", "tiny"), default="small")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    columns = ("CPU ms, best", "x ours, best", "x ours, median (95 %)", "GFLOP", "MB at a time")
    table = Table("what", "way", *columns, title="losses, features and gradients agree", caption=f"{CLIPS} clips")
    for comparison in comparisons(options.size):
        measure(comparison, options.rounds, table)
    console.print(table)


if __name__ == "__main__":
    main()
