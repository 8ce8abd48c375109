"""What it costs to score questions about a clip: our one pass over all of them against the obvious ways.

    OMP_NUM_THREADS=1 python -m scripts.bench.question_scoring [--rounds 3]

1. Options: a question of 70 tokens after a clip of 1,521, with 5 and 10 options of 12 tokens. The obvious way runs the
   language model over everything once per option.
2. Questions per clip, as in EgoTaskQA (8.5 of five options per clip): the obvious way decodes and encodes the clip for
   every question, as VideoLLaMA2's evaluator does, then runs once per question (letters) or per option (options).

The model is small (6 layers of width 256) with random weights. CPU seconds are taken in turns; FLOPs are those that
torch counts, decoding excluded. Log-probabilities of the two ways must agree within 1e-4.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy
import torch
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

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
    corpus = [f"{first} {second}" for first in WORDS for second in WORDS]
    tokenizer = train_tokenizer([*corpus, *LETTERS, "[INST] [/INST]"], 600)
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
def score_one_by_one(answerer: Exo2EgoAnswerer, visual: Tensor, request: ScoreRequest) -> list[float]:
    """Scores with one pass over clip, question and text per option, or one per question for letters."""
    prompt = answerer.processor.encode_prompt(request.prompt, answerer.view)
    targets = [answerer.processor.encode_continuation(text) for text in request.texts]
    if request.kind == "letters":
        output = answerer.model(input_ids=torch.tensor([prompt]), visual_tokens=visual, logits_to_keep=1)
        log_probabilities = output.logits[0, -1].log_softmax(0)
        return [float(log_probabilities[ids[0]]) for ids in targets]
    scores = []
    for ids in targets:
        output = answerer.model(
            input_ids=torch.tensor([prompt + ids]), visual_tokens=visual, use_cache=False, logits_to_keep=len(ids) + 1
        )
        rows = output.logits[0, :-1].log_softmax(1)
        scores.append(float(rows[torch.arange(len(ids)), ids].mean()))
    return scores


def require_equal(found: Scores, expected: Scores) -> None:
    """Raises `AssertionError` where log-probabilities differ."""
    difference = numpy.abs(numpy.asarray(found) - numpy.asarray(expected)).max()
    if difference > TOLERANCE:
        raise AssertionError(f"log-probabilities differ by {difference:.2e}, more than {TOLERANCE}")


def add_comparison(
    table: Table, what: str, obvious: Callable[[], Scores], ours: Callable[[], Scores], rounds: int
) -> None:
    """Measures two ways in turns and adds their row."""
    with FlopCounterMode(display=False) as flops_of_obvious:
        expected = obvious()
    with FlopCounterMode(display=False) as flops_of_ours:
        require_equal(ours(), expected)
    seconds = in_turns(
        {"obvious": timed(obvious), "ours": timed(ours)}, rounds, lambda _, found: require_equal(found, expected)
    )
    flop_ratio = flops_of_obvious.get_total_flops() / flops_of_ours.get_total_flops()
    interval = ratio_interval(seconds["obvious"], seconds["ours"])
    table.add_row(
        what,
        f"{numpy.median(seconds['obvious']):.2f}",
        f"{numpy.median(seconds['ours']):.2f}",
        with_interval(interval),
        f"{flop_ratio:.2f}",
        f"{interval[0] / flop_ratio:.2f}",
    )


def _table(title: str) -> Table:
    return Table("", "obvious, CPU s", "ours", "ratio (95 %)", "FLOP ratio", "of it", title=title)


def measure_options(answerer: Exo2EgoAnswerer, rounds: int, numbers: Sequence[int] = (5, 10)) -> Table:
    """Returns the table of options: the clip is already encoded in both ways."""
    generator = torch.Generator().manual_seed(0)
    width = answerer.model.config.text_config.hidden_size
    num_tokens = answerer.processor.num_video_tokens["ego_only"]
    visual = torch.randn(1, num_tokens, width, generator=generator)
    table = _table(f"{num_tokens:,} tokens of video, {QUESTION_TOKENS} of question, options of {OPTION_TOKENS}")
    for number in numbers:
        request = draw_request(answerer, numpy.random.default_rng(number), number)
        add_comparison(
            table,
            f"{number} options",
            lambda request=request: [score_one_by_one(answerer, visual, request)],  # type: ignore[misc]
            lambda request=request: answerer.score(ReadVideo(visual), [request]),  # type: ignore[misc]
            rounds,
        )
    return table


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
    parser.add_argument("--rounds", type=int, default=3, help="times that every way is measured (default 3)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    answerer = small_answerer(side=336, width=256, layers=6)
    console.print(measure_options(answerer, arguments.rounds))
    with tempfile.TemporaryDirectory() as folder:
        console.print(measure_clips(answerer, arguments.rounds, Path(folder)))


if __name__ == "__main__":
    main()
