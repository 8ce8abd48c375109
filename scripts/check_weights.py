"""Loads the base weights that a configuration names, or a run with all it builds on, and says whether they fit.

Nothing is trained and nothing is written. Every part prints `loaded n / expected n` and a fingerprint of its weights;
a missing, unexpected or misshapen tensor, a damaged file or a folder that is not there ends it with one message.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from exo2ego.command_line import run_safely
from exo2ego.config import Config, merge, parse_overrides, read_config_file, validate_config
from exo2ego.console import console
from exo2ego.errors import ConfigError
from exo2ego.model.options import ModelOptions
from exo2ego.model.parts import ModelParts


class ModelSection(Config):
    """The part of a stage's configuration that says what the model is made of."""

    model: ModelOptions
    """Architecture and base weights."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and loads."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.check_weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--config", type=Path, metavar="FILE", help="configuration of any stage")
    source.add_argument("--run", type=Path, metavar="DIR", help="run folder, checkpoint or exported model")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the configuration")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    arguments = parser.parse_intermixed_args(argv)

    def check() -> None:
        if not console.is_terminal:
            from transformers.utils import logging

            logging.disable_progress_bar()
        if arguments.run is not None:
            if arguments.overrides:
                raise ConfigError("--run has its own configuration: key=value belongs to --config")
            check_run(arguments.run)
        else:
            values = merge(read_config_file(arguments.config), parse_overrides(arguments.overrides))
            given = {"model": values["model"]} if "model" in values else {}
            check_options(validate_config(ModelSection, given, str(arguments.config)).model)

    return run_safely(check, arguments.debug)


def check_options(options: ModelOptions) -> None:
    """Builds the model of the largest stage from its base weights; the attention kernel is the training machine's."""
    from exo2ego.model.building import build_model, build_tokenizer

    options = options.model_copy(update={"attention": None})
    tokenizer = build_tokenizer(options)
    console.print(f"tokenizer: {len(tokenizer):,} tokens", markup=False)
    model = build_model(options, ModelParts(teacher=True, mapper=True, inverse=True), tokenizer, seed=0)
    for part, identity in model.config.base_weights.items():
        console.print(f"weights of the {part.replace('_', ' ')}: {identity[:16]}", markup=False)
    total = sum(parameter.numel() for parameter in model.parameters())
    console.print(f"complete: {total / 1e6:,.1f} M parameters with teacher, F and G", markup=False)


def check_run(path: Path) -> None:
    """Loads a run, checkpoint or export."""
    from exo2ego.inference import load

    model, _ = load(path)
    total = sum(parameter.numel() for parameter in model.parameters())
    console.print(f"complete: {total / 1e6:,.1f} M parameters", markup=False)


if __name__ == "__main__":
    sys.exit(main())
