"""Ways to take a stage's training step with random weights, and what each takes."""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel

from exo2ego.data.batch import Batch
from exo2ego.data.failures import FailureBudget
from exo2ego.model.skeleton import skeleton_of
from exo2ego.train.batch_plan import BatchPlan
from exo2ego.train.journal import Journal
from exo2ego.train.loop import TrainingRun, take_step
from exo2ego.train.parameters import parameter_groups
from exo2ego.train.prediction import make_trainable, skeleton_batch, trace_stage
from exo2ego.train.preparation import present_rows
from exo2ego.train.stopping import StopRequest
from exo2ego.train.updating import Updater
from scripts.bench.plain_model import used_plainly
from scripts.bench.random_stages import build_on, random_batch, random_stage

ALL = ("towers", "connector", "mappers", "language_model")
BUT_LANGUAGE = ("towers", "connector", "mappers")
NARRATION, INSTRUCTION = (48, 46), (150, 50)
"""Tokens of prompt and answer, and of the answer alone."""


@dataclass(frozen=True)
class Variant:
    """One way to take a stage's step."""

    stage: str
    clips: int
    views: int = 1
    recomputed: tuple[str, ...] = ()
    plain: bool = False
    attention: str = "sdpa"
    compiled: bool = False
    losses: str = "all"
    """all, or `text`: KL and cycle loss left out (stage 2)."""

    @property
    def name(self) -> str:
        """Returns what the table calls it."""
        ways = ["plain transformers" if self.plain else "ours"]
        ways += [self.attention] if self.attention != "sdpa" else []
        ways += ["compiled"] if self.compiled else []
        ways += ["text loss alone"] if self.losses == "text" else []
        return ", ".join(ways)


def variants_of(stage: str, *, flash: bool, compiled: bool) -> list[Variant]:
    """Returns what is to be measured, the most telling first; compiled ones last, for they cannot be undone.

    All are predicted to fit into 139 GiB (exo2ego/model/cost.py).
    """
    if stage == "stage1":
        base = Variant("stage1", 8, recomputed=("towers", "connector"))
        others = [replace(base, recomputed=ALL), replace(base, clips=4), replace(base, clips=4, recomputed=())]
    elif stage == "stage2":
        base = Variant("stage2", 4, recomputed=BUT_LANGUAGE)
        others = [
            replace(base, clips=8, recomputed=ALL),
            replace(base, clips=2, views=4),
            replace(base, clips=6),
            replace(base, losses="text"),
            replace(base, clips=2, recomputed=()),
        ]
    else:
        base = Variant("stage3", 2, recomputed=BUT_LANGUAGE)
        others = [replace(base, clips=8, recomputed=ALL), replace(base, clips=4, recomputed=ALL)]
    plain = replace(base, plain=True, recomputed=ALL)
    flashed = [replace(base, attention="flash_attention_2")] if flash else []
    return [base, plain, *others, *flashed, *([replace(base, compiled=True)] if compiled else [])]


@dataclass
class Row:
    """What was measured of a variant."""

    variant: Variant
    step_s: list[float] = field(default_factory=list)
    """Every timed step."""
    loss: float | None = None
    """Of the first step."""
    model_tflop: float = 0.0
    """Forward and backward of one step, 1e12."""
    recomputed_tflop: float = 0.0
    tokens: int = 0
    """The language model's, per step."""
    peak_gib: float | None = None
    predicted_gib: float | None = None
    """By exo2ego/model/cost.py, before the first step."""
    fault: str | None = None
    """Why there are no times."""

    def figures(self, peak_tflops: float | None, ceiling_tflops: float) -> dict[str, float | None]:
        """Returns what follows from the median step."""
        if not self.step_s:
            return {}
        seconds = statistics.median(self.step_s)
        speed = self.model_tflop / seconds
        return {
            "median_s": seconds,
            "clips_per_s": self.variant.clips / seconds,
            "pairs_per_s": self.variant.clips * self.variant.views / seconds,
            "tokens_per_s": self.tokens / seconds,
            "model_tflops": speed,
            "mfu": speed / peak_tflops if peak_tflops else None,
            "hfu": (self.model_tflop + self.recomputed_tflop) / seconds / peak_tflops if peak_tflops else None,
            "share_of_ceiling": speed / ceiling_tflops,
        }


class StageBench:
    """One stage's model and optimiser on the device; its variants share them.

    `options` are the command line's: size, preset, precision, warm_up, steps.
    """

    def __init__(self, name: str, options: argparse.Namespace, device: torch.device) -> None:

        self.options, self.device = options, device
        self.stage = random_stage(name, options.size, options.preset, f"precision={options.precision}")
        self.model = build_on(self.stage, device)
        optim = self.stage.config.optim
        self.optimizer = torch.optim.AdamW(
            parameter_groups(
                self.model,
                present_rows(self.model, self.stage.freeze_table()),
                learning_rate=optim.learning_rate,
                weight_decay=optim.weight_decay,
            ),
            fused=True,
        )
        alone: Any = SimpleNamespace(device=device, num_processes=1, process_index=0)
        self.updater = Updater(alone, self.model, self.optimizer, max_gradient_norm=optim.max_gradient_norm)

    def measure(self, variant: Variant) -> Row:
        """Takes warm-up and timed steps; a variant that does not fit into memory is a row that says so."""

        row = Row(variant)
        try:
            self._predict(row)
            self._take_steps(row)
        except torch.OutOfMemoryError:
            row.fault = "out of memory"
        except Exception as error:  # one variant's fault, such as a kernel that is missing, must not lose the others
            row.fault = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]
        self.optimizer.zero_grad()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return row

    def _predict(self, row: Row) -> None:
        """Counts FLOPs and memory of the step on the meta device."""

        variant, stage = row.variant, self._stage_of(row.variant)
        model = skeleton_of(self.model.config, stage.parts.lora)
        make_trainable(stage, model)
        recompute(model, variant.recomputed)
        batch = skeleton_batch(stage, model, variant.clips, variant.views, *self._text())
        trace = trace_stage(stage, model, batch)
        trained = sum(parameter.numel() for parameter in self.updater.trained)
        frozen = sum(parameter.nbytes for parameter in model.parameters() if not parameter.requires_grad)
        row.model_tflop, row.recomputed_tflop = (
            trace.flops("model_flops") / 1e12,
            trace.flops("recomputed_flops") / 1e12,
        )
        row.tokens = batch.input_ids.numel()
        if not variant.plain:  # the count is of our model
            row.predicted_gib = (16 * trained + frozen + trace.peak_bytes) / 2**30

    def _take_steps(self, row: Row) -> None:

        variant, on_gpu = row.variant, self.device.type == "cuda"
        batch = self._batch(variant)
        recompute(self.model, variant.recomputed)
        with ExitStack() as stack:
            stack.enter_context(attention_of(self.model, variant.attention))
            run = self._run(variant, batch, stack)
            if variant.compiled:
                compile_blocks(self.model)
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
            for number in range(self.options.warm_up + self.options.steps):
                began = time.perf_counter()
                metrics, _ = take_step(run, number + 1, [batch], StopRequest())
                if on_gpu:
                    torch.cuda.synchronize()
                if number >= self.options.warm_up:
                    row.step_s.append(time.perf_counter() - began)
                if number == 0:
                    row.loss = metrics["loss"]
        row.peak_gib = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None

    def _run(self, variant: Variant, batch: Batch, stack: ExitStack) -> Any:
        """Returns what `take_step` needs; the learning rate is 0, so that every variant meets the same weights."""
        losses: Callable[..., Any] = self._stage_of(variant).losses
        if variant.plain:
            plain, stage_losses = stack.enter_context(used_plainly(self.model)), losses
            losses = lambda model, batch: stage_losses(plain, batch)  # noqa: E731
        return TrainingRun(
            updater=self.updater,
            losses=losses,
            scheduler=LambdaLR(self.optimizer, lambda step: 0.0),
            batches=[batch],
            plan=BatchPlan(variant.clips, variant.clips, 1, 1, 1, 0),
            precision=self.options.precision,
            journal=Journal(Path(), start_step=0, total_steps=1, log_every=1, enabled=False),
            failures=FailureBudget(),
            save=lambda step: None,
            save_every=10**9,
            seed=0,
        )

    def _stage_of(self, variant: Variant) -> Any:
        if variant.losses == "all":
            return self.stage
        return type(self.stage)(
            self.stage.config.model_validate(
                {**self.stage.config.model_dump(), "loss": {"kl": {"weight": 0}, "cycle": {"weight": 0}}}
            )
        )

    def _batch(self, variant: Variant) -> Batch:

        text, targets = self._text()
        return random_batch(
            self.stage,
            self.model,
            num_clips=variant.clips,
            num_views=variant.views,
            text_tokens=text,
            target_tokens=targets,
        )

    def _text(self) -> tuple[int, int]:
        return INSTRUCTION if self.stage.name == "stage3" else NARRATION


def recompute(model: Any, parts: Sequence[str]) -> None:
    """Turns activation checkpointing on for the parts and off for all others."""
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.gradient_checkpointing = False
    model.set_gradient_checkpointing(list(parts))


@contextmanager
def attention_of(model: Any, implementation: str) -> Iterator[None]:
    """Uses another attention kernel in towers and language model for a while."""

    library_models = [m for m in model.modules() if isinstance(m, PreTrainedModel) and m is not model]
    for library_model in library_models:
        library_model.set_attn_implementation(implementation)
    try:
        yield
    finally:
        for library_model in library_models:
            library_model.set_attn_implementation("sdpa")


def compile_blocks(model: Any) -> None:
    """Compiles the blocks of towers and language model one by one: they are alike, so that one graph serves all."""

    for module in model.modules():
        layers = getattr(module, "layers", None)
        if isinstance(layers, nn.ModuleList):
            for layer in layers:
                layer.compile()
