"""What it costs to score questions about a clip: our one pass over all of them against the obvious ways.

    OMP_NUM_THREADS=1 python -m scripts.bench.question_scoring [--rounds 5]

1. Options: a question of 70 tokens after a clip of 1,521, with 5 and 10 options of 12 tokens. The obvious way runs the
   language model over everything once per option; in its plain form with logits at every position, in its better one
   at the option's alone.
2. Questions per clip, as in EgoTaskQA (8.5 of five options per clip): the obvious way decodes and encodes the clip for
   every question, as VideoLLaMA2's evaluator does, then runs once per question (letters) or per option (options).

The model is small (6 layers of width 256) with random weights. CPU seconds are taken in turns. FLOPs are those that
torch counts, decoding excluded, and once more without what causal attention skips: torch counts it in full, the kernel
computes half of it, and the obvious ways consist of it. Log-probabilities of the two ways must agree within 1e-4, and
over random questions the best option too. `scripts/bench/gpu_scoring.py` measures a model of the paper's size.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy
import torch
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import PreTrainedTokenizerBase

from eval.answerers.exo2ego import Exo2EgoAnswerer, ReadVideo
from eval.answerers.protocol import ScoreRequest
from exo2ego.console import console
from exo2ego.data.prompting import LETTERS
from exo2ego.data.video import read_frames
from exo2ego.model.building import build_model
from exo2ego.model.options import ModelOptions
from exo2ego.model.parts import ModelParts
from exo2ego.model.small_language import train_tokenizer
from exo2ego.train.assembly import build_processor
from scripts.bench.side_by_side import in_turns, ratio_interval, timed, with_interval

NUM_FRAMES, QUESTION_TOKENS, OPTION_TOKENS = 16, 70, 12
QUESTIONS_OF_CLIPS = (8, 9)
"""EgoTaskQA has 19,182 questions about 2,257 clips."""
NUM_OPTIONS = 5
TOLERANCE = 1e-4
"""Of log-probabilities: float32, another order of the same sums."""
WORDS = [f"{start}{end}" for start in ("ba", "ce", "di", "fo", "gu") for end in ("ck", "lm", "nt", "rs", "st", "xy")]
Scores = list[list[float]]


def word_tokenizer() -> PreTrainedTokenizerBase:
    """Returns a tokenizer to which every word of `WORDS` is one token."""
    corpus = [f"{first} {second}" for first in WORDS for second in WORDS]
    return train_tokenizer([*corpus, *LETTERS, "[INST] [/INST]"], 600)


def small_answerer(side: int, width: int, layers: int) -> Exo2EgoAnswerer:
    """Returns a model of one tower for pictures of `side` pixels in patches of 14, with random weights."""
    vision = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    text = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": layers, "vocab_size": 4096}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": width // 4, "sliding_window": None}
    options = ModelOptions.model_validate(
        {
            "vision_tower": {
                "architecture": {"model_type": "clip_vision_model", "image_size": side, "patch_size": 14, **vision}
            },
            "language_model": {"architecture": {"model_type": "mistral", **text, **heads}},
            "connector": {"kind": "stc", "depth": 1},
            "mapper": {"kind": "none"},
            "num_frames": NUM_FRAMES,
        }
    )
    tokenizer = word_tokenizer()
    model = build_model(options, ModelParts(), tokenizer, seed=0)
    return Exo2EgoAnswerer(model, build_processor(model, tokenizer, "pad"), view="ego_only")


def draw_request(answerer: Exo2EgoAnswerer, draw: numpy.random.Generator, num_options: int) -> ScoreRequest:
    """Returns a question and options of the lengths that are measured, in random words."""

    def words(count: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(count))

    tokens = answerer.processor.tokenizer
    count = 1
    while True:  # a word is one token; how many the template has is not said
        prompt = answerer.render(words(count))
        length = len(tokens(prompt.partition("<video>")[2], add_special_tokens=False).input_ids)
        if length >= QUESTION_TOKENS:
            break
        count += QUESTION_TOKENS - length
    texts = tuple(words(OPTION_TOKENS - 1) for _ in range(num_options))
    lengths = {length, *(len(answerer.processor.encode_continuation(text)) for text in texts)}
    if lengths != {QUESTION_TOKENS, OPTION_TOKENS}:
        raise AssertionError(f"texts of {lengths} tokens, expected {QUESTION_TOKENS} and {OPTION_TOKENS}")
    return ScoreRequest(prompt, texts, "options")


def as_letters(request: ScoreRequest) -> ScoreRequest:
    """Returns the same prompt with letters to be scored."""
    return ScoreRequest(request.prompt, tuple(LETTERS[: len(request.texts)]), "letters")


@torch.inference_mode()
def score_one_by_one(
    answerer: Exo2EgoAnswerer, visual: Tensor, request: ScoreRequest, *, all_logits: bool = False
) -> list[float]:
    """Scores with one pass over clip, question and text per option, or one per question for letters."""
    device = answerer.model.device
    prompt = answerer.processor.encode_prompt(request.prompt, answerer.view)
    targets = [answerer.processor.encode_continuation(text) for text in request.texts]
    if request.kind == "letters":
        ids = torch.tensor([prompt], device=device)
        output = answerer.model(input_ids=ids, visual_tokens=visual, logits_to_keep=1)
        log_probabilities = output.logits[0, -1].float().log_softmax(0)
        return [float(log_probabilities[target[0]]) for target in targets]
    scores = []
    for target in targets:
        ids = torch.tensor([prompt + target], device=device)
        kept = 0 if all_logits else len(target) + 1
        output = answerer.model(input_ids=ids, visual_tokens=visual, use_cache=False, logits_to_keep=kept)
        rows = output.logits[0, -len(target) - 1 : -1].float().log_softmax(1)
        scores.append(float(rows[torch.arange(len(target)), target].mean()))
    return scores


def require_equal(found: Scores, expected: Scores, tolerance: float = TOLERANCE) -> float:
    """Returns the largest difference of log-probabilities; raises `AssertionError` where it is too large."""
    difference = float(numpy.abs(numpy.asarray(found) - numpy.asarray(expected)).max())
    if not difference <= tolerance:
        raise AssertionError(f"log-probabilities differ by {difference:.2e}, more than {tolerance}")
    return difference


def count_flops(work: Callable[[], Scores]) -> tuple[Scores, numpy.ndarray]:
    """Returns the scores, and their FLOPs as torch counts them and without the half that causal attention skips."""
    skipped = 0.0

    def attention(query: Any, key: Any, value: Any, dropout: float = 0, is_causal: bool = False, **_: Any) -> float:
        nonlocal skipped
        flops = sdpa_flop_count(query, key, value)
        skipped += flops / 2 * is_causal
        return float(flops)

    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with FlopCounterMode(display=False, custom_mapping={kernel: attention}) as counter:
        scores = work()
    total = counter.get_total_flops()
    return scores, numpy.array([total, total - skipped])


def add_comparison(
    table: Table, what: str, obvious: Callable[[], Scores], ours: Callable[[], Scores], rounds: int
) -> None:
    """Measures two ways in turns and adds their row."""
    expected, flops_of_obvious = count_flops(obvious)
    found, flops_of_ours = count_flops(ours)
    require_equal(found, expected)
    seconds = in_turns(
        {"obvious": timed(obvious), "ours": timed(ours)}, rounds, lambda _, scores: require_equal(scores, expected)
    )
    interval = ratio_interval(seconds["obvious"], seconds["ours"])
    table.add_row(
        what,
        *(f"{numpy.median(seconds[way]):.2f}" for way in ("obvious", "ours")),
        with_interval(interval),
        f"{min(seconds['obvious']) / min(seconds['ours']):.2f}",
        *(f"{ratio:.2f} ({interval[0] / ratio:.2f})" for ratio in flops_of_obvious / flops_of_ours),
    )


def _table(title: str) -> Table:
    columns = ("obvious, CPU s", "ours", "ratio of medians (95 %)", "of minima")
    return Table("", *columns, "FLOP ratio (reached)", "without skipped ones", title=title)


def measure_options(answerer: Exo2EgoAnswerer, rounds: int, numbers: Sequence[int] = (5, 10)) -> Table:
    """Returns the table of options: the clip is already encoded in both ways."""
    generator = torch.Generator().manual_seed(0)
    width = answerer.model.config.text_config.hidden_size
    num_tokens = answerer.processor.num_video_tokens["ego_only"]
    visual = torch.randn(1, num_tokens, width, generator=generator)
    table = _table(f"{num_tokens:,} tokens of video, {QUESTION_TOKENS} of question, options of {OPTION_TOKENS}")
    for number in numbers:
        request = draw_request(answerer, numpy.random.default_rng(number), number)
        for all_logits in (True, False):

            def obvious(request: ScoreRequest = request, all_logits: bool = all_logits) -> Scores:
                return [score_one_by_one(answerer, visual, request, all_logits=all_logits)]

            def ours(request: ScoreRequest = request) -> Scores:
                return answerer.score(ReadVideo(visual), [request])

            what = f"{number} options, {'all' if all_logits else 'needed'} logits"
            add_comparison(table, what, obvious, ours, rounds)
    return table


def require_same_choices(answerer: Exo2EgoAnswerer, count: int) -> None:
    """Raises `AssertionError` where one of `count` random questions gets another best option, or other scores."""
    draw = numpy.random.default_rng(1)
    shape = (1, answerer.processor.num_video_tokens["ego_only"], answerer.model.config.text_config.hidden_size)
    for number in range(count):
        visual = torch.from_numpy(draw.standard_normal(shape, dtype=numpy.float32))
        request = draw_request(answerer, draw, NUM_OPTIONS)
        expected, (found,) = score_one_by_one(answerer, visual, request), answerer.score(ReadVideo(visual), [request])
        require_equal([found], [expected])
        if numpy.argmax(found) != numpy.argmax(expected):
            raise AssertionError(f"random question {number}: best option {found}, expected that of {expected}")


def write_clip(path: Path, seed: int) -> None:
    """Writes four seconds of 448 x 336 video."""
    pictures = numpy.random.default_rng(seed).integers(0, 256, (40, 21, 28, 3), dtype=numpy.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height = 448, 336
        for picture in pictures.repeat(16, axis=1).repeat(16, axis=2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())


def measure_clips(
    answerer: Exo2EgoAnswerer, rounds: int, folder: Path, questions_of_clips: Sequence[int] = QUESTIONS_OF_CLIPS
) -> Table:
    """Returns the table of questions per clip: decoding and encoding included."""
    draw = numpy.random.default_rng(0)
    clips: list[tuple[Path, list[ScoreRequest]]] = []
    for number, count in enumerate(questions_of_clips):
        write_clip(folder / f"{number}.mp4", number)
        clips.append((folder / f"{number}.mp4", [draw_request(answerer, draw, NUM_OPTIONS) for _ in range(count)]))

    def encode(path: Path) -> ReadVideo:
        return answerer.encode(read_frames(path, None, None, NUM_FRAMES))

    def obvious(asked: Callable[[ScoreRequest], ScoreRequest]) -> Scores:
        return [
            score_one_by_one(answerer, encode(path).tokens, asked(request)) for path, own in clips for request in own
        ]

    def ours(asked: Callable[[ScoreRequest], ScoreRequest]) -> Scores:
        return [scores for path, own in clips for scores in answerer.score(encode(path), [asked(one) for one in own])]

    count = sum(questions_of_clips) / len(questions_of_clips)
    table = _table(f"{count:g} questions of {NUM_OPTIONS} options per clip, {len(clips)} clips, from the file on")
    add_comparison(table, "letters", lambda: obvious(as_letters), lambda: ours(as_letters), rounds)
    add_comparison(table, "options", lambda: obvious(lambda one: one), lambda: ours(lambda one: one), rounds)
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `python -m scripts.bench.question_scoring`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="times that every way is measured (default 5)")
    parser.add_argument("--questions", type=int, default=2000, help="random questions to compare (default 2000)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    require_same_choices(small_answerer(side=84, width=64, layers=2), arguments.questions)
    console.print(f"{arguments.questions:,} random questions: the same best option and log-probabilities both ways")
    answerer = small_answerer(side=336, width=256, layers=6)
    console.print(measure_options(answerer, arguments.rounds))
    with tempfile.TemporaryDirectory() as folder:
        console.print(measure_clips(answerer, arguments.rounds, Path(folder)))


if __name__ == "__main__":
    main()
