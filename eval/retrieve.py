"""Full-gallery retrieval on EPIC-KITCHENS-100 with a dual encoder: writes the similarities that `eval.mir` scores.

Every clip is read and embedded once. The same command continues where a run was stopped.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy

import exo2ego
from eval.retrieval.gallery import embed_captions, embed_clips, read_gallery
from eval.retrieval.loading import load_dual_encoder
from exo2ego.command_line import run_safely
from exo2ego.console import console
from exo2ego.errors import DataError, EvaluationError
from exo2ego.provenance import provenance
from exo2ego.storage import atomic_path, hash_file, read_json, require_free_space, write_json

BYTES_PER_SIMILARITY = 4


def retrieve(arguments: argparse.Namespace) -> int:
    """Writes the matrix [clips, captions] float32 and beside it `OUT.json`, which says how it was made."""
    gallery = read_gallery(arguments.videos, arguments.sentences)
    if not arguments.media_root.is_dir():
        raise DataError(f"--media-root {arguments.media_root} is not a folder; give the one with the videos")
    out, record = arguments.out, arguments.out.with_name(f"{arguments.out.name}.json")
    if out.suffix != ".npy":
        raise DataError(f"--out {out}: expected a name that ends in .npy")
    encoder = load_dual_encoder(arguments.model, arguments.num_frames)
    inputs = {str(path): hash_file(path) for path in (arguments.videos, arguments.sentences)}
    key = {
        "exo2ego": exo2ego.__version__,
        "model": encoder.identity,
        "num_frames": encoder.num_frames,
        "videos": inputs[str(arguments.videos)],
    }
    matrix_key = {**key, "sentences": inputs[str(arguments.sentences)]}
    if out.exists():
        _require_same(out, record, matrix_key)
        console.print(f"{out} is already there", markup=False)
        return 0
    require_free_space(out.parent, BYTES_PER_SIMILARITY * len(gallery.clips) * len(gallery.captions), str(out))
    parts = out.with_name(f"{out.name}.parts")
    captions = embed_captions(gallery.captions, encoder)
    clips = embed_clips(gallery.clips, encoder, arguments.media_root, parts, key, arguments.num_workers)
    made_by = provenance({name: str(value) for name, value in vars(arguments).items()}, inputs=inputs)
    write_json(record, {"key": matrix_key, "provenance": made_by})
    with atomic_path(out) as temporary, temporary.open("wb") as stream:
        numpy.save(stream, clips @ captions.T)
    shutil.rmtree(parts)
    console.print(
        f"{out}: {len(clips)} clips x {len(captions)} captions. Score them:\n"
        f"python -m eval.mir --videos {arguments.videos} --sentences {arguments.sentences} --similarity {out}",
        markup=False,
        soft_wrap=True,
    )
    return 0


def _require_same(out: Path, record: Path, key: dict[str, Any]) -> None:
    former = read_json(record, "description of the matrix").get("key", {}) if record.exists() else {}
    if former != key:
        raise EvaluationError(f"{out}: is there already and of another run; give another --out, or remove it")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.retrieve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, metavar="FAMILY:SOURCE", help="open_clip:ARCH@CHECKPOINT_FILE")
    parser.add_argument("--videos", type=Path, required=True, metavar="CSV", help="EPIC_100_retrieval_test.csv")
    parser.add_argument(
        "--sentences", type=Path, required=True, metavar="CSV", help="EPIC_100_retrieval_test_sentence.csv"
    )
    parser.add_argument("--media-root", type=Path, required=True, metavar="DIR", help="folder of the videos")
    parser.add_argument("--out", type=Path, required=True, metavar="NPY", help="array [clips, captions] to write")
    parser.add_argument("--num-frames", type=_positive, metavar="N", help="frames per clip (default: the model's)")
    parser.add_argument("--num-workers", type=int, default=2, metavar="N", help="threads that decode ahead")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return number


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m eval.retrieve`."""
    arguments = _parser().parse_args(argv)
    return run_safely(lambda: retrieve(arguments), arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
