"""Building the generated raw datasets: each complete or absent, several at a time, then the record of all."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

from data_builders.synthetic.ground_truth import read_sidecar
from data_builders.synthetic.processes import map_in_processes
from data_builders.synthetic.sources import (
    charades_ego,
    egoclip,
    egoexolearn,
    egomcq,
    egoplan,
    egoschema,
    egotaskqa,
    egotimeqa,
    egtea,
    ek100_mir,
    openeqa,
    qaego4d,
    ssv2,
    vlnqa,
)
from data_builders.synthetic.sources.config import SourcesConfig
from data_builders.synthetic.sources.draft import Draft, Layout, Truth
from data_builders.synthetic.sources.rendered_takes import read_rendered_takes
from exo2ego.console import track
from exo2ego.errors import DataError
from exo2ego.provenance import provenance
from exo2ego.storage import (
    TEMPORARY_MARK,
    atomic_path,
    read_json,
    read_jsonl,
    remove_leftovers,
    write_json,
    write_jsonl,
)

RECORD = "synthetic_sources.json"
GROUND_TRUTH = "ground_truth"
LAYOUTS: tuple[Layout, ...] = (
    # The slowest ones first: they decide how long several processes take.
    ssv2.LAYOUT,
    egotaskqa.LAYOUT,
    vlnqa.LAYOUT,
    egoschema.LAYOUT,
    openeqa.LAYOUT,
    egtea.LAYOUT,
    charades_ego.LAYOUT,
    egotimeqa.LAYOUT,
    egoexolearn.LAYOUT,
    egoclip.LAYOUT,
    qaego4d.LAYOUT,
    ek100_mir.LAYOUT,
    egoplan.LAYOUT,
    egomcq.LAYOUT,
)


def build_sources(config: SourcesConfig, corpus: Path, out: Path, workers: int) -> dict[str, Any]:
    """Writes every raw dataset into a folder of its name below `out`, or finishes what was interrupted.

    Returns the record, which is written last. Raises `DataError` where `corpus` is no finished corpus, `out` holds
    something else, or no event of the corpus can become a row of some dataset.
    """
    made_of = read_sidecar(corpus)["config"]
    _claim(out, {"config": config.model_dump(mode="json"), "corpus": made_of})
    for folder in (out, out / GROUND_TRUTH):
        remove_leftovers(folder)
    write = partial(_write_layout, config=config, corpus=corpus, out=out)
    written = list(track(map_in_processes(write, LAYOUTS, workers, out), "datasets", total=len(LAYOUTS)))
    record = {
        **read_json(out / RECORD, "record of the generated raw datasets"),
        "sources": dict(sorted(written)),
        "provenance": provenance(config.model_dump(mode="json"), config.seed),
    }
    write_json(out / RECORD, record)
    return record


def read_truths(out: Path, source: str) -> list[Truth]:
    """Returns what makes the rows of a source true; raises `DataError` if it was not built."""
    path = out / GROUND_TRUTH / f"{source}.jsonl"
    return [Truth.model_validate(row) for row in read_jsonl(path, "ground truth of a generated dataset")]


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Marks the folder as ours before anything else is written; refuses other people's folders and other settings."""
    if (out / RECORD).exists():
        there = read_json(out / RECORD, "record of the generated raw datasets")
        if any(there.get(key) != value for key, value in settings.items()):
            raise DataError(f"{out}: holds datasets of another corpus or other settings; choose another folder")
    elif out.is_dir() and any(TEMPORARY_MARK not in path.name for path in out.iterdir()):
        raise DataError(f"{out}: is not empty and has no {RECORD}; choose an empty or a new folder")
    else:
        write_json(out / RECORD, settings)


def _write_layout(layout: Layout, config: SourcesConfig, corpus: Path, out: Path) -> tuple[str, dict[str, Any]]:
    """Writes one dataset unless it is there; returns its name and what the record says about it."""
    summary = out / GROUND_TRUTH / f"{layout.name}.summary.json"
    if not (out / layout.name).is_dir():
        rows = config.training_rows if layout.split == "train" else config.benchmark_rows
        takes = read_rendered_takes(corpus, layout.split)
        with atomic_path(out / layout.name) as temporary:
            draft = Draft(temporary, takes, rows, random.Random(f"{config.seed}/{layout.name}"))
            layout.write(draft)
            if not draft.truths:
                raise DataError(
                    f"{corpus}: nothing happens in its {layout.split} takes that {layout.name} could ask about; "
                    "generate more or longer takes"
                )
            write_jsonl(out / GROUND_TRUTH / f"{layout.name}.jsonl", (truth.to_row() for truth in draft.truths))
            counts: dict[str, Any] = {"made_of": layout.split, "rows": len(draft.truths), "traps": dict(draft.traps)}
            write_json(summary, counts)
    return layout.name, read_json(summary, "summary of a generated dataset")
