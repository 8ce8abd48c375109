"""Finding near-duplicate texts: time and memory at the size of EgoIT against EgoBench, and exactness on a sample.

    python -m scripts.bench.text_overlap [--training 300000] [--benchmark 80000]

Two kinds of generated texts: of random words as rare and as frequent as in natural language, and captions of one
template, which nearly all have neighbours: the worst case of such data. One in ten benchmark texts is a training text
with one word changed. A sample is compared with every training text one by one.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections import Counter
from collections.abc import Callable

import numpy
from rich.table import Table

from exo2ego.console import console
from scripts.similar_texts import THRESHOLD, similar_texts

VERBS = "picks puts washes opens closes moves holds drops lifts turns cuts pours shakes wipes stirs".split()  # noqa: SIM905
COLOURS = "red blue green white black small large wooden plastic metal".split()  # noqa: SIM905
VOCABULARY_SIZE = 20_000
SAMPLE_SIZE = 20

Texts = list[list[str]]


def natural(count: int, random: numpy.random.Generator) -> Texts:
    """Returns texts of 6 to 23 words whose frequencies follow Zipf's law."""
    weights = 1 / numpy.arange(1, VOCABULARY_SIZE + 1)
    lengths = random.integers(6, 24, count)
    words = random.choice(VOCABULARY_SIZE, int(lengths.sum()), p=weights / weights.sum())
    return [[f"w{word}" for word in part] for part in numpy.split(words, numpy.cumsum(lengths)[:-1])]


def captions(count: int, random: numpy.random.Generator) -> Texts:
    """Returns captions of 14 words that differ in five of them."""
    chosen = random.integers(0, [len(VERBS), len(COLOURS), 300, 60, 2], (count, 5))
    lines = (
        f"C {VERBS[verb]} up the {COLOURS[colour]} o{thing} from the p{place} with his {('left', 'right')[hand]} hand"
        for verb, colour, thing, place, hand in chosen
    )
    return [line.split() for line in lines]


def measure(
    name: str, make: Callable[[int, numpy.random.Generator], Texts], num_first: int, num_second: int
) -> list[str]:
    """Returns one row of the table; raises `AssertionError` where the sample finds another neighbour."""
    random = numpy.random.default_rng(0)
    first, second = make(num_first, random), make(num_second, random)
    for place in range(0, num_second, 10):
        second[place] = [*first[int(random.integers(num_first))]]
        second[place][int(random.integers(len(second[place])))] = "changed"
    began = time.process_time()
    found = {match.text: match for match in similar_texts(first, second)}
    seconds = time.process_time() - began
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    for place in random.choice(num_second, SAMPLE_SIZE, replace=False):
        expected = _num_neighbours(first, second[place])
        assert (found[place].num_matches if place in found else 0) == expected, (name, place)
    matches = sum(match.num_matches for match in found.values())
    return [
        name,
        f"{num_first:,} x {num_second:,}",
        f"{len(found):,}",
        f"{matches:,}",
        f"{seconds:.1f}",
        f"{peak_gb:.2f}",
    ]


def _num_neighbours(first: Texts, text: list[str]) -> int:
    words = Counter(text)
    count = 0
    for other in first:
        shared = (words & Counter(other)).total()
        count += shared * THRESHOLD[1] >= (len(text) + len(other) - shared) * THRESHOLD[0]
    return count


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.text_overlap", description=__doc__)
    parser.add_argument("--training", type=int, default=300_000)
    parser.add_argument("--benchmark", type=int, default=80_000)
    arguments = parser.parse_args()
    table = Table("texts", "sizes", "with a neighbour", "pairs", "CPU seconds", "peak memory so far, GB")
    for name, make in (("natural", natural), ("captions of one template", captions)):
        table.add_row(*measure(name, make, arguments.training, arguments.benchmark))
    console.print(table)


if __name__ == "__main__":
    main()
