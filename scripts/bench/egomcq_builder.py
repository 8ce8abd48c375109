"""EgoMCQ builder on a generated file of the paper's size, by a stub encoder: the search, not the embedding.

    python scripts/bench/egomcq_builder.py [--questions 39716]

Prints seconds of CPU and peak memory of a process that reads the file, and of one that builds both tables.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
PAPER_QUESTIONS, PAPER_VIDEOS = 39_716, 827  # Exo2Ego Table 2
INTRA_SHARE = 0.4
DIMENSIONS = 384  # as MiniLM
VERBS = ("picks", "drops", "carries", "opens", "washes", "closes", "holds", "turns", "cuts", "moves", "places", "lifts")
KINDS = ("red", "blue", "small", "big", "metal", "wooden", "plastic", "wet", "dry", "broken")
OBJECTS = (
    "bag",
    "cup",
    "plate",
    "tap",
    "drawer",
    "knife",
    "pan",
    "cloth",
    "phone",
    "book",
    "door",
    "box",
    "wire",
    "brush",
)
PREPOSITIONS = ("on", "from", "in", "with", "near", "under")
PLACES = ("table", "floor", "sink", "cupboard", "car", "garden", "shelf", "bed", "chair", "bench", "window", "stove")


def generate(path: Path, num_questions: int, seed: int = 0) -> None:
    """Writes an `egomcq.json` whose texts are drawn from 120,960 sentences."""
    generator = random.Random(seed)
    videos = [f"{number:08x}-2743-47fc-8564-d5efd11f9e90" for number in range(PAPER_VIDEOS)]
    with path.open("w") as stream:
        for number in range(num_questions):
            is_intra = generator.random() < INTRA_SHARE
            video = generator.choice(videos)
            clips = [_clip(generator, video if is_intra else generator.choice(videos)) for _ in range(5)]
            answer = generator.randrange(5)
            choices = {str(place): clip for place, clip in enumerate(clips)}
            entry = {"answer": answer, "types": 1 + is_intra, "query": clips[answer], "choices": choices}
            stream.write(f"{',' if number else '{'}{json.dumps(str(number))}:{json.dumps(entry)}")
        stream.write("}")


def _clip(generator: random.Random, video: str) -> dict[str, Any]:
    instant_s = round(generator.uniform(1, 1800), 4)
    preposition = generator.choice(PREPOSITIONS)
    thing = f"{generator.choice(KINDS)} {generator.choice(OBJECTS)}"
    return {
        "video_uid": video,
        "video_dur": 1900.0333,
        "narration_source": "narration_pass_1",
        "narration_ind": generator.randrange(500),
        "narration_time": instant_s,
        "clip_start": instant_s - 0.4,
        "clip_end": instant_s + 0.4,
        "clip_text": f"#C C {generator.choice(VERBS)} the {thing} {preposition} the {generator.choice(PLACES)}",
        "tag_verb": "[93]",
        "tag_noun": "[192, 115, 12]",
    }


def measure(root: Path, what: str) -> dict[str, float]:
    """Reads, or reads and builds, in this process."""
    import numpy

    from data_builders.distractors import options as distractor_options
    from data_builders.egobench import egomcq
    from data_builders.source import Account, build_source

    class Stub:
        name = "stub"

        def encode(self, texts: Sequence[str]) -> Any:
            rows = numpy.stack(
                [
                    numpy.random.default_rng(zlib.crc32(text.encode())).standard_normal(DIMENSIONS, numpy.float32)
                    for text in texts
                ]
            )
            return rows / numpy.linalg.norm(rows, axis=1, keepdims=True)

    setattr(distractor_options, "load_encoder", lambda _: Stub())  # noqa: B010
    options = egomcq.EgoMCQOptions(root=root, out=root / "out")
    started_s, started_wall_s = time.process_time(), time.perf_counter()
    if what == "read":
        egomcq.read(options, Account())
    else:
        import dataclasses

        build_source(dataclasses.replace(egomcq.SOURCE, finish=None), options)
    return {
        "cpu_seconds": round(time.process_time() - started_s, 1),
        "wall_seconds": round(time.perf_counter() - started_wall_s, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def main() -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=PAPER_QUESTIONS)
    parser.add_argument("--measure", nargs=2, metavar=("ROOT", "WHAT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(Path(arguments.measure[0]), arguments.measure[1])))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "egomcq.json")
        generate(path, arguments.questions)
        print(f"{arguments.questions:,} questions, {path.stat().st_size / 1e6:.0f} MB")
        for what in ("read", "build"):
            command = [sys.executable, __file__, "--measure", folder, what]
            done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
            print(f"{what}: {done.stdout.strip().splitlines()[-1]}")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    sys.exit(main())
