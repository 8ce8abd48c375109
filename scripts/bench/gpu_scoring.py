"""How fast the 8 B model answers questions on one GPU: ours against the loops that evaluators usually run.

    python -m scripts.bench.gpu_scoring [--rounds 5] [--out gpu_scoring.json]
    python -m scripts.bench.gpu_scoring --size tiny --device cpu --precision fp32     # the same code in seconds

1. Letters, with 1 and 8 questions per clip, from decoded frames on: ours reads the clip once; the usual loop encodes it
   for every question and generates four tokens, one question at a time, as VideoLLaMA2's evaluator does.
2. Options, 5 and 10 of 12 tokens, after an encoded clip: ours against one pass over everything per option.

Random weights of the sizes of the paper (x and F(x), 3,042 tokens of video), noise as frames. Wall time, in turns.
FLOPs are those of one forward pass over the clip and all texts (exo2ego/model/cost.py), so that MFU says what is left
to gain. Ours must give the log-probabilities of one pass per option within the precision's rounding.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from rich.table import Table

from eval.answerers.exo2ego import Exo2EgoAnswerer, ReadVideo
from eval.answerers.protocol import ScoreRequest
from exo2ego.console import console
from exo2ego.model.building import build_model
from exo2ego.model.cost import trace_cost
from exo2ego.model.parts import ModelParts
from exo2ego.model.skeleton import skeleton_of
from exo2ego.provenance import provenance
from exo2ego.storage import write_json
from exo2ego.train.assembly import build_processor
from exo2ego.train.hardware import find_gpu
from scripts.bench.gpu_step import clocks, matmul_ceiling
from scripts.bench.question_scoring import (
    Scores,
    as_letters,
    draw_request,
    require_equal,
    score_one_by_one,
    word_tokenizer,
)
from scripts.bench.random_stages import random_stage
from scripts.bench.side_by_side import Way, in_turns

TOLERANCES = {"fp32": 1e-4, "bf16": 0.25}
"""Of log-probabilities: bf16 has three digits, and the two ways add up in other orders through 32 layers."""
QUESTIONS_PER_CLIP, NUMBERS_OF_OPTIONS = (1, 8), (5, 10)
GENERATED_TOKENS = 4
FRAME_SIZES = {"paper": (448, 796), "small": (112, 199), "tiny": (32, 57)}


@dataclass
class Row:
    """One workload and its two ways."""

    what: str
    num_questions: int
    flops: float
    """Of one forward pass over the clip and all texts."""
    difference: float
    """Largest of log-probabilities, ours to one pass per option."""
    usual_s: list[float]
    ours_s: list[float]
    peak_gib: float | None
    """Most GPU memory of ours, weights included, 2**30 bytes."""

    def figures(self, peak_tflops: float | None) -> dict[str, float | None]:
        """Returns speeds of medians, and the share of the peak that ours reaches."""
        usual_s, ours_s = statistics.median(self.usual_s), statistics.median(self.ours_s)
        return {
            "questions_per_s": self.num_questions / ours_s,
            "usual_questions_per_s": self.num_questions / usual_s,
            "ratio": usual_s / ours_s,
            "mfu": self.flops / ours_s / (peak_tflops * 1e12) if peak_tflops else None,
        }


def build_answerer(options: argparse.Namespace) -> Exo2EgoAnswerer:
    """Returns a model with ego tower, F and language model, drawn on the device."""
    stage = random_stage("stage2", options.size, options.preset)
    tokenizer = word_tokenizer()
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if options.precision == "bf16" else torch.float32)
    try:
        with torch.device(options.device):
            model = build_model(stage.config.model, ModelParts(mapper=True), tokenizer, seed=0)
    finally:
        torch.set_default_dtype(default)
    answerer = Exo2EgoAnswerer(
        model, build_processor(model, tokenizer, "pad"), view="ego", max_new_tokens=GENERATED_TOKENS
    )
    return answerer


def forward_flops(answerer: Exo2EgoAnswerer, num_texts: int, *, encoded: bool) -> float:
    """Returns the FLOPs of one forward pass over a clip and so many tokens of text; without the towers if `encoded`."""
    model = skeleton_of(copy.deepcopy(answerer.model.config), None).eval()
    count, config = answerer.processor.num_video_tokens["ego"], model.config
    ids = torch.tensor([[1] + [config.video_token_id] * count + [1] * (num_texts - 1)])
    given: dict[str, torch.Tensor] = {}
    if encoded:
        width = config.text_config.get_text_config().hidden_size
        given["visual_tokens"] = torch.empty(1, count, width, device="meta")
    else:
        side = answerer.processor.image_size
        given["pixel_values_videos"] = torch.empty(1, config.num_frames, 3, side, side, device="meta")

    @torch.no_grad()
    def run() -> Any:
        attended = torch.ones_like(ids)  # without it transformers looks into positions, which have no content here
        return model(input_ids=ids, attention_mask=attended, view="ego", logits_to_keep=1, use_cache=False, **given)

    return trace_cost(model, run, part_of={}).flops("forward_flops")


def generate_one(answerer: Exo2EgoAnswerer, frames: NDArray[numpy.uint8], request: ScoreRequest) -> None:
    """Encodes the clip and generates the answer to one question."""
    inputs = answerer.processor.prepare(request.prompt, frames, answerer.view)
    pixels = inputs.pop("pixel_values_videos").to(answerer.model.device, answerer.model.dtype)
    on_device = {name: value.to(answerer.model.device) for name, value in inputs.items()}
    answerer.model.generate(
        **on_device, pixel_values_videos=pixels, view="ego", max_new_tokens=GENERATED_TOKENS, do_sample=False
    )


def on_wall_clock(work: Callable[[], Any], device: torch.device) -> Way:
    """Returns a way that counts wall seconds until the device has finished."""

    def way() -> tuple[float, Any]:
        _finish(device)
        began = time.perf_counter()
        result = work()
        _finish(device)
        return time.perf_counter() - began, result

    return way


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def compare(
    what: str, ours: Callable[[], Scores], usual: Callable[[], Any], expected: Scores, options: argparse.Namespace
) -> Row:
    """Measures both ways in turns; raises `AssertionError` where ours gives other log-probabilities than `expected`."""
    device = torch.device(options.device)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    difference = require_equal(ours(), expected, TOLERANCES[options.precision])
    peak_gib = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None
    ways = {"usual": on_wall_clock(usual, device), "ours": on_wall_clock(ours, device)}
    seconds = in_turns(ways, options.rounds, lambda *_: None)
    return Row(what, 1, 0.0, difference, seconds["usual"], seconds["ours"], peak_gib)


def measure_letters(answerer: Exo2EgoAnswerer, options: argparse.Namespace, num_questions: int) -> Row:
    """Measures one clip and its questions from decoded frames on."""
    draw = numpy.random.default_rng(num_questions)
    shape = (answerer.num_frames, *FRAME_SIZES[options.size], 3)
    frames = draw.integers(0, 256, shape, dtype=numpy.uint8)
    requests = [as_letters(draw_request(answerer, draw, 5)) for _ in range(num_questions)]
    visual = answerer.encode(frames).tokens
    row = compare(
        f"letters, {num_questions} per clip",
        lambda: answerer.score(answerer.encode(frames), requests),
        lambda: [generate_one(answerer, frames, request) for request in requests],
        [score_one_by_one(answerer, visual, request) for request in requests],
        options,
    )
    num_texts = sum(_num_tokens(answerer, request) for request in requests)
    row.num_questions, row.flops = num_questions, forward_flops(answerer, num_texts, encoded=False)
    return row


def measure_options(answerer: Exo2EgoAnswerer, options: argparse.Namespace, num_options: int) -> Row:
    """Measures one question after an encoded clip."""
    draw = numpy.random.default_rng(num_options)
    shape = (answerer.num_frames, *FRAME_SIZES[options.size], 3)
    visual = answerer.encode(draw.integers(0, 256, shape, dtype=numpy.uint8)).tokens
    request = draw_request(answerer, draw, num_options)
    row = compare(
        f"{num_options} options, encoded clip",
        lambda: answerer.score(ReadVideo(visual), [request]),
        lambda: score_one_by_one(answerer, visual, request),
        [score_one_by_one(answerer, visual, request)],
        options,
    )
    row.flops = forward_flops(answerer, _num_tokens(answerer, request), encoded=True)
    return row


def _num_tokens(answerer: Exo2EgoAnswerer, request: ScoreRequest) -> int:
    """Returns the tokens of a question and, where they are scored, of its options."""
    num_prompt = len(answerer.processor.encode_prompt(request.prompt, "ego"))
    own = 0
    if request.kind == "options":
        own = sum(len(answerer.processor.encode_continuation(text)) - 1 for text in request.texts)
    return num_prompt - answerer.processor.num_video_tokens["ego"] + own


def render(rows: Sequence[Row], peak_tflops: float | None, title: str) -> Table:
    """Returns the table."""
    columns = ("questions/s", "usual", "ratio", "TFLOP/question", "MFU", "peak GiB", "largest difference")
    table = Table("", *columns, title=title)
    for row in rows:
        numbers = row.figures(peak_tflops)
        speeds = [f"{numbers[name]:.2f}" for name in ("questions_per_s", "usual_questions_per_s", "ratio")]
        mfu = "-" if numbers["mfu"] is None else f"{100 * numbers['mfu']:.1f} %"
        memory = "-" if row.peak_gib is None else f"{row.peak_gib:.1f}"
        each = f"{row.flops / row.num_questions / 1e12:.3g}"
        table.add_row(row.what, *speeds, each, mfu, memory, f"{row.difference:.1e}")
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `python -m scripts.bench.gpu_scoring`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=tuple(FRAME_SIZES), default="paper", help="paper: 8 B")
    parser.add_argument("--preset", default="paper", help="folder of stages/configs")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", choices=tuple(TOLERANCES), default="bf16")
    parser.add_argument("--rounds", type=int, default=5, help="times that every way is measured (default 5)")
    parser.add_argument("--out", default="gpu_scoring.json", help="JSON with every time")
    options = parser.parse_args(argv)
    device = torch.device(options.device)
    before, ceiling = clocks(device), matmul_ceiling(device)
    answerer = build_answerer(options)
    rows = [measure_letters(answerer, options, count) for count in QUESTIONS_PER_CLIP]
    rows += [measure_options(answerer, options, count) for count in NUMBERS_OF_OPTIONS]
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    gpu = find_gpu(name)
    peak = gpu.peak_tflops if gpu is not None else None
    video = answerer.processor.num_video_tokens["ego"]
    title = (
        f"{options.size} model, {video:,} tokens of video, {options.precision}, {name}, matmul {ceiling:.3g} TFLOP/s"
    )
    console.print(render(rows, peak, title))
    report = {
        "provenance": provenance(vars(options), seed=0),
        "device": name,
        "clocks": {"before": before, "after": clocks(device)},
        "peak_tflops": peak,
        "matmul_tflops": ceiling,
        "rows": [asdict(row) | row.figures(peak) for row in rows],
    }
    write_json(Path(options.out), report)


if __name__ == "__main__":
    main()
