"""Exports a trained model as one folder for transformers' Auto classes: no teacher, no G, with a model card."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from exo2ego.command_line import run_safely
from exo2ego.console import console


def main() -> int:
    """Parses the command line and exports."""
    parser = argparse.ArgumentParser(prog="python -m scripts.export", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="run folder or checkpoint")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the exported model")
    parser.add_argument("--adapter", action="store_true", help="keep LoRA apart in OUT/adapter instead of merging it")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    arguments = parser.parse_args()

    def export() -> int:
        from exo2ego.inference import export_for_inference

        folder = export_for_inference(arguments.run, arguments.out, keep_adapter=arguments.adapter)
        console.print(f"written: {folder}", markup=False)
        return 0

    return run_safely(export, arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
