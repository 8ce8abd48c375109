"""Damages the raw files of every source in many ways: a builder makes whole tables or says what is wrong, no third.

`python -m tests.data_builders.fuzz_readers --inputs 2000` prints what became of how many inputs per source.
`--engine atheris` lets coverage guide the damage (extra `fuzz`) for one source: `--sources egtea`.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import math
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from data_builders.distractors import options as distractor_options
from data_builders.distractors import quality
from data_builders.distractors.options import EMBEDDINGS_FOLDER
from data_builders.source import Source, build_source
from exo2ego.errors import Exo2EgoError
from tests.text_encoders import WordEncoder

SECONDS_PER_INPUT = 20
"""Of the CPU, so that a busy machine changes nothing."""
TEXT_SUFFIXES = {".json", ".jsonl", ".csv", ".tsv", ".txt"}
SOURCES = {
    "egoit": ("egtea", "ssv2", "egotimeqa", "openeqa", "egoexolearn"),
    "egobench": ("egoschema", "qaego4d", "egotaskqa", "charades_ego", "ek100_mir", "egoplan", "vlnqa", "egomcq"),
}
ALL_SOURCES = [(kind, name) for kind, names in SOURCES.items() for name in names]
TOKENS = [
    *(b"", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\n", b"\r", b",", b'"', b"\t", b";", b"[", b"]", b"{", b"}"),
    *(b"../../etc/passwd", b"/etc/passwd", b"C:\\", b"file:///etc/passwd", b"a|b", b"|", b"%n", b"{video}", b"{0}"),
    *(b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-1", b"0", b"9" * 400, b"null", b"true", b'"0"', b"[]", b"{}"),
    *(b"\\ud800", b"\\u0000", "\u202e\u200b".encode(), b"__import__('os').system('true')", b"(" * 3000, b"[" * 3000),
]

VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 10**30, 0.5, -1e9, 1e308, math.nan, math.inf, "", " ", "0", "1", "no", "\ud800"),
    *([], {}, [[]], [None], ["a"], {"a": 1}, "a" * 30_000, "../a", "/a", "a/../../b", "\x00", "1e400", "A", "E"),
]


@dataclass(frozen=True)
class RawSource:
    """A source with a function that writes a tiny valid folder of it."""

    source: Source[Any, Any]
    write: Callable[[Path], None]


def use_stub_encoder(set_attribute: Callable[[object, str, Any], None]) -> None:
    """Makes all sources embed without a model; `set_attribute` is `setattr`, or pytest's, which is undone."""
    for module in (distractor_options, quality):
        set_attribute(module, "load_encoder", lambda _: WordEncoder())


def raw_source(kind: str, name: str) -> RawSource:
    """Returns a source and the writer of its raw files (`tests/data_builders/raw_<name>.py`)."""
    source = importlib.import_module(f"data_builders.{kind}.{name}").SOURCE
    write = getattr(importlib.import_module(f"tests.data_builders.raw_{name}"), f"write_{name}")
    return RawSource(source, write)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Returns the bytes of a file with one to four damages."""
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice([0, 1, 1, 4, 30, 400]))
        lines = data.split(b"\n")
        kind = rng.randrange(6)
        if kind == 0:  # other bytes in place
            data = data[:start] + rng.choice(TOKENS) + data[end:]
        elif kind == 1:  # cut off
            data = data[:start]
        elif kind == 2:  # single bits
            data = data[:start] + bytes(byte ^ (1 << rng.randrange(8)) for byte in data[start:end]) + data[end:]
        elif kind == 3:  # a line twice, or elsewhere
            lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
            data = b"\n".join(lines)
        elif kind == 4:  # a line lost
            del lines[rng.randrange(len(lines))]
            data = b"\n".join(lines)
        else:  # a piece of the file elsewhere in it
            data = data[:start] + data[end:] + data[start:end]
    return data


def mutate_value(data: bytes, rng: random.Random) -> bytes:
    """Returns a JSON file that stays one, with one value, key or item changed; other bytes where it is no JSON."""
    try:
        value = json.loads(data)
    except ValueError:
        return mutate(data, rng)
    parent: Any = None
    inner, key = value, None
    while isinstance(inner, dict | list) and inner and (parent is None or rng.random() < 0.9):
        parent = inner
        key = rng.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
        inner = inner[key]
    if parent is None:
        return mutate(data, rng)
    kind = rng.randrange(4)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, list):
        parent.insert(rng.randrange(len(parent) + 1), copy.deepcopy(rng.choice(parent)))
    elif kind == 2 and isinstance(inner, str):
        at = rng.randrange(len(inner) + 1)
        parent[key] = inner[:at] + rng.choice(TOKENS).decode("utf-8", "replace") + inner[at:]
    else:
        parent[key] = rng.choice(VALUES)
    return json.dumps(value).encode()


def annotation_files(root: Path) -> list[Path]:
    """Returns the text files of a raw folder."""
    return sorted(path for path in root.rglob("*") if path.suffix in TEXT_SUFFIXES and path.is_file())


def outcome(raw: RawSource, root: Path, out: Path) -> str:
    """Builds and returns `built` or `refused`; anything else, a partial output or a wait without end, raises."""
    shutil.rmtree(out, ignore_errors=True)
    signal.setitimer(signal.ITIMER_PROF, SECONDS_PER_INPUT)
    try:
        build_source(raw.source, raw.source.options(root=root, out=out))
    except Exo2EgoError as error:
        left = [path.name for path in out.iterdir() if path.name != EMBEDDINGS_FOLDER] if out.is_dir() else []
        if left:
            raise AssertionError(f"refused ({error}), but left {left}") from error
        if len(str(error)) > 3000:
            raise AssertionError(f"a message of {len(str(error))} characters") from error
        return "refused"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return "built"


def fuzz(raw: RawSource, inputs: int, seed: int, folder: Path) -> Counter[str]:
    """Tries `inputs` damaged copies of a source's raw files; raises at the first that is neither built nor refused."""
    root, out = folder / "raw", folder / "out"
    raw.write(root)
    if outcome(raw, root, out) != "built":
        raise AssertionError(f"{raw.source.name}: the undamaged files are refused")
    files = {path: path.read_bytes() for path in annotation_files(root)}
    counts: Counter[str] = Counter()
    for number in range(inputs):
        rng = random.Random(f"{seed}/{raw.source.name}/{number}")
        path = rng.choice(list(files))
        path.write_bytes((mutate if rng.random() < 0.4 else mutate_value)(files[path], rng))
        try:
            counts[outcome(raw, root, out)] += 1
        except BaseException:
            print(f"{raw.source.name}: input {number} of seed {seed}, file {path.name}", file=sys.stderr)
            raise
        path.write_bytes(files[path])
    return counts


def fuzz_with_coverage(raw: RawSource, inputs: int, folder: Path) -> None:
    """Hands the first annotation file to atheris, which ends the process after `inputs` inputs or at a failure."""
    import atheris

    root, out = folder / "raw", folder / "out"
    raw.write(root)
    path = annotation_files(root)[0]
    seeds = folder / "seeds"
    seeds.mkdir()
    shutil.copy(path, seeds)

    def try_one(data: bytes) -> None:
        path.write_bytes(data)
        outcome(raw, root, out)

    atheris.instrument_all()
    atheris.Setup([sys.argv[0], f"-runs={inputs}", "-max_len=20000", str(seeds)], try_one)
    atheris.Fuzz()


def _too_long(_: int, __: FrameType | None) -> None:
    raise AssertionError(f"no answer within {SECONDS_PER_INPUT} s of the CPU")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.data_builders.fuzz_readers", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1000, help="damaged inputs per source (default 1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sources", nargs="+", default=[name for _, name in ALL_SOURCES], metavar="NAME")
    parser.add_argument("--engine", choices=["random", "atheris"], default="random")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGPROF, _too_long)
    use_stub_encoder(setattr)
    total: Counter[str] = Counter()
    failed: list[str] = []
    for kind, name in ALL_SOURCES:
        if name not in arguments.sources:
            continue
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            if arguments.engine == "atheris":
                fuzz_with_coverage(raw_source(kind, name), arguments.inputs, folder)
            try:
                counts = fuzz(raw_source(kind, name), arguments.inputs, arguments.seed, folder)
            except Exception:  # the other sources are tried all the same
                traceback.print_exc()
                failed.append(name)
                continue
        print(f"{name}: {counts.total()} inputs, {counts['built']} built, {counts['refused']} refused", flush=True)
        total += counts
    print(f"all: {total.total()} inputs, {total['built']} built, {total['refused']} refused")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
