"""What the official retrieval metrics cost at the size of EPIC-KITCHENS-100: ours, the formulas as they stand, sorting.

    OMP_NUM_THREADS=1 python -m scripts.bench.retrieval_metrics [--rounds 5]

9,668 clips and 3,842 captions, float32 similarities, graded relevance of made-up actions, mAP and nDCG in both
directions. The plain way writes the formulas down over whole float64 matrices, a sort per measure, as the official code
(JPoSE) does; the floor is one argsort per direction and nothing else. CPU seconds of one thread, taken in turns; memory
is the most that numpy holds at a time beyond the two matrices. Both ways must agree within 1e-12.
"""

from __future__ import annotations

import argparse
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import numpy
from numpy.typing import NDArray
from rich.table import Table

from eval.metrics.graded_retrieval import score_retrieval
from exo2ego.action_relevancy import ActionClass, relevancy_matrix
from exo2ego.console import console
from scripts.bench.side_by_side import in_turns, ratio_interval, timed, with_interval

Matrix = NDArray[Any]
TOLERANCE = 1e-12
NUM_VERBS, NUM_NOUNS = 97, 300
"""Classes of EPIC-KITCHENS-100."""


def draw_problem(num_clips: int, num_captions: int, dtype: str) -> tuple[Matrix, Matrix]:
    """Returns similarities and relevance [clips, captions]; a caption has the action of some clip."""
    draw = numpy.random.default_rng(0)
    verbs = _draw_classes(draw, NUM_VERBS, 1.15, (num_clips,))
    nouns = _draw_classes(draw, NUM_NOUNS, 0.85, (num_clips, 3))
    counts = draw.choice([1, 2, 3], num_clips, p=[0.9, 0.08, 0.02])
    clips = [
        ActionClass(int(verb), frozenset(map(int, own[:count])))
        for verb, own, count in zip(verbs, nouns, counts, strict=True)
    ]
    captions = [clips[number] for number in draw.choice(num_clips, num_captions, replace=False)]
    return draw.standard_normal((num_clips, num_captions)).astype(dtype), relevancy_matrix(clips, captions)


def _draw_classes(draw: numpy.random.Generator, count: int, exponent: float, shape: tuple[int, ...]) -> Matrix:
    """Returns classes that fall off with their number as a power law."""
    weights = numpy.arange(1, count + 1) ** -exponent
    return draw.choice(count, shape, p=weights / weights.sum())


def score_plainly(similarity: Matrix, relevancy: Matrix) -> tuple[float, float]:
    """Returns mAP and nDCG of one direction by the formulas, on whole matrices."""
    order = numpy.argsort(-similarity.astype(numpy.float64), axis=1, kind="stable")
    ranked = numpy.take_along_axis(relevancy, order, axis=1)
    precision = numpy.cumsum(ranked, axis=1) / numpy.arange(1, ranked.shape[1] + 1)
    with numpy.errstate(invalid="ignore"):
        average = (precision * (ranked == 1)).sum(axis=1) / (ranked == 1).sum(axis=1)
    order = numpy.argsort(similarity.astype(numpy.float64), axis=1, kind="stable")[:, ::-1]
    ranked = numpy.take_along_axis(relevancy, order, axis=1)
    best = numpy.sort(relevancy, axis=1)[:, ::-1]
    discount = numpy.log2(numpy.arange(ranked.shape[1]) + 2)
    with numpy.errstate(invalid="ignore"):
        gain = (ranked * (best > 0) / discount).sum(axis=1) / (best / discount).sum(axis=1)
    return float(numpy.nanmean(average)), float(numpy.nanmean(gain))


def ways(similarity: Matrix, relevancy: Matrix) -> dict[str, Callable[[], list[float] | None]]:
    """Returns what is compared: four numbers each, and sorting alone."""
    directions = [(similarity, relevancy), (similarity.T, relevancy.T)]

    def plain() -> list[float]:
        return [value for pair in directions for value in score_plainly(*pair)]

    def ours() -> list[float]:
        scores = [score_retrieval(*pair) for pair in directions]
        return [value for one in scores for value in (one.mean_average_precision, one.ndcg)]

    def floor() -> None:
        for matrix, _ in directions:
            numpy.argsort(matrix, axis=1)

    return {"plain": plain, "ours": ours, "floor": floor}


def peak_mb(work: Callable[[], Any]) -> float:
    """Returns the most that the work holds at a time, 10**6 bytes."""
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 1e6


def require_equal(found: Sequence[float] | None, expected: Sequence[float]) -> float:
    """Returns the largest difference; raises `AssertionError` where it is too large."""
    difference = 0.0 if found is None else float(numpy.abs(numpy.subtract(found, expected)).max())
    if not difference <= TOLERANCE:
        raise AssertionError(f"the metrics differ by {difference:.1e}, more than {TOLERANCE}")
    return difference


def measure(num_clips: int, num_captions: int, rounds: int, dtype: str) -> Table:
    """Returns the table of one size."""
    compared = ways(*draw_problem(num_clips, num_captions, dtype))
    expected = compared["plain"]()
    assert expected is not None
    difference = require_equal(compared["ours"](), expected)
    memory = {name: peak_mb(work) for name, work in compared.items()}
    seconds = in_turns(
        {name: timed(work) for name, work in compared.items()},
        rounds,
        lambda _, found: require_equal(found, expected),
    )
    title = f"{num_clips:,} x {num_captions:,}, {dtype}; ours differs from plain by {difference:.1e}"
    table = Table("", "CPU s", "of the floor (95 %)", "plain is slower (95 %)", "extra MB", title=title)
    for name, own in seconds.items():
        of_floor, faster = ratio_interval(own, seconds["floor"]), ratio_interval(seconds["plain"], own)
        row = (f"{numpy.median(own):.2f}", with_interval(of_floor), with_interval(faster), f"{memory[name]:,.0f}")
        table.add_row(name, *row)
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `python -m scripts.bench.retrieval_metrics`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=9668)
    parser.add_argument("--captions", type=int, default=3842)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="of the similarities")
    parser.add_argument("--rounds", type=int, default=5, help="times that every way is measured (default 5)")
    arguments = parser.parse_args(argv)
    console.print(measure(arguments.clips, arguments.captions, arguments.rounds, arguments.dtype))


if __name__ == "__main__":
    main()
