"""`… .all --config`: every source whose root is given, one after the other, with the reason for each that was not."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import create_model, model_validator

from data_builders.source import Source, SourceOptions, build_source, print_summary
from exo2ego.command_line import RunOptions, run_configured
from exo2ego.config import Config, validate_config
from exo2ego.console import console
from exo2ego.errors import ConfigError, Exo2EgoError

SHARED = ("media_root", "missing_videos", "seed")


class AllOptions(Config):
    """What holds for all sources; a section of a source can say otherwise for itself."""

    out: Path
    """Folder for the results of all sources."""
    media_root: Path | None = None
    """Folder above the videos of all sources; paths in the records are relative to it (default: their one folder)."""
    missing_videos: Literal["keep", "drop", "stop"] = "keep"
    """What happens to a row whose video is not there."""
    seed: int = 0
    """Decides everything that is drawn."""

    @model_validator(mode="after")
    def _sources_share_a_media_root(self) -> AllOptions:
        roots = {}
        for name, section in self:
            if isinstance(section, SourceOptions) and section.root is not None:
                own = section.media_root if "media_root" in section.model_fields_set else self.media_root
                roots[name] = os.path.abspath(own or section.videos_folder)
        if len(set(roots.values())) > 1:
            told = ", ".join(f"{name}: {root}" for name, root in roots.items())
            raise ValueError(
                f"media_root: the paths of the sources would be relative to different folders ({told}), so that no "
                "one folder fits them all; give media_root, a folder above all videos"
            )
        return self


def config_class(name: str, sources: Sequence[Source[Any, Any]]) -> type[AllOptions]:
    """Returns the configuration class with one section per source, in which `root` and `out` may be absent."""
    sections: dict[str, Any] = {}
    for source in sources:
        section: Any = create_model(
            f"{source.options.__name__}Section",
            __base__=source.options,
            root=(Path | None, None),
            out=(Path | None, None),
        )
        section.__doc__ = f"Options of `python -m {source.module}`; without a root it is skipped."
        sections[source.name] = (section, section())
    made: type[AllOptions] = create_model(name, __base__=AllOptions, **sections)
    return made


def run_all(
    sources: Sequence[Source[Any, Any]],
    config: AllOptions,
    combine: Callable[[Path, Mapping[str, Mapping[str, Any]]], None] | None = None,
) -> int:
    """Builds every source whose root is given; returns the exit code of the last one that failed, else 0.

    `combine` gets the output folder and the summaries when all of them were made.
    """
    summaries: dict[str, dict[str, Any]] = {}
    told: dict[str, str] = {}
    exit_code = 0
    for source in sources:
        given = getattr(config, source.name).model_dump(exclude_unset=True)
        if given.get("root") is None:
            told[source.name] = f"skipped: {source.name}.root is not given"
            continue
        console.print(f"{source.name}", style="bold")
        try:
            shared = {name: getattr(config, name) for name in SHARED}
            options: SourceOptions = validate_config(
                source.options, {"out": config.out, **shared, **given}, f"section {source.name}"
            )
            summaries[source.name] = build_source(source, options)
            print_summary(summaries[source.name])
            told[source.name] = f"written to {options.out}"
        except Exo2EgoError as error:
            exit_code = error.exit_code
            told[source.name] = f"failed: {error}"
    if not summaries and exit_code == 0:
        raise ConfigError("no source has a root; give at least one, for example " + f"{sources[0].name}.root=DIR")
    if combine is not None and exit_code == 0:
        combine(config.out, summaries)
    for name, outcome in told.items():
        console.print(f"{name}: {outcome}", markup=False)
    return exit_code


def run_all_command(
    module: str,
    description: str | None,
    sources: Sequence[Source[Any, Any]],
    config: type[AllOptions],
    combine: Callable[[Path, Mapping[str, Mapping[str, Any]]], None] | None,
    argv: Sequence[str] | None,
) -> int:
    """Runs `python -m <module> --config FILE.yaml key=value …`."""

    def act(options: AllOptions, _: RunOptions) -> int:
        return run_all(sources, options, combine)

    return run_configured(module, description or "", config, act, argv, long_running=False)
