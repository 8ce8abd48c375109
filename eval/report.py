"""Writes results.json, results.csv, results.md, results.tex and report.html from the output folders of evaluations.

Scoring the same files again writes the same bytes. With several folders the first is the one to look at, the others
(another stage, a baseline, a blind or shuffled control) stand beside it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from eval.reporting.examples import FrameReader, choose_examples
from eval.reporting.page import render_page
from eval.reporting.results import Results, make_results
from eval.reporting.run_folder import read_run
from eval.reporting.text import csv_text, latex, markdown, markdown_document
from exo2ego.command_line import run_safely
from exo2ego.console import console
from exo2ego.errors import ConfigError, DataError
from exo2ego.storage import write_json, write_text

EXAMPLES_PER_TASK = 12
FILES = ("results.json", "results.csv", "results.md", "results.tex", "report.html")


def write_report(
    folders: Path | Sequence[Path],
    out: Path | None = None,
    names: Sequence[str] | None = None,
    data_root: Path | None = None,
    examples_per_task: int = EXAMPLES_PER_TASK,
) -> Results:
    """Scores output folders and writes the files to `out`, by default into the only folder."""
    paths = [folders] if isinstance(folders, Path) else list(folders)
    if out is None and len(paths) > 1:
        raise ConfigError("several folders: give --out DIR, where their common report goes")
    if data_root is not None and not data_root.is_dir():
        raise DataError(f"--data-root {data_root}: no such folder")
    read = [read_run(path) for path in paths]
    results = make_results(read, names)
    examples = choose_examples(read, results.runs, examples_per_task, FrameReader(data_root))
    page = render_page(results, examples, examples_per_task)
    texts = (csv_text(results), markdown_document(results), latex(results), page)
    target = out or paths[0]
    write_json(target / FILES[0], results.to_json())
    for name, text in zip(FILES[1:], texts, strict=True):
        write_text(target / name, text)
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m eval.report`."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="output of `python -m eval.egobench`")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: the only folder)")
    parser.add_argument("--names", metavar="A,B", help="names of the runs, in order (default: of their models)")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="folder of the videos: shows frames in the page")
    parser.add_argument(
        "--examples",
        type=int,
        default=EXAMPLES_PER_TASK,
        metavar="N",
        help=f"questions of each task in the page, at most (default {EXAMPLES_PER_TASK})",
    )
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    arguments = parser.parse_args(argv)

    def act() -> None:
        names = arguments.names.split(",") if arguments.names is not None else None
        if arguments.examples < 0:
            raise ConfigError(f"--examples {arguments.examples}: expected 0 or more")
        results = write_report(arguments.folders, arguments.out, names, arguments.data_root, arguments.examples)
        console.print(markdown(results), markup=False)
        console.print(f"written to {arguments.out or arguments.folders[0]}: {', '.join(FILES)}", markup=False)

    return run_safely(act, arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
