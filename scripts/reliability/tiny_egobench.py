"""EgoBench in tiny: eleven tables built from generated raw datasets in the layouts of the real ones, and a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_builders.egobench import all as egobench_builder
from data_builders.synthetic.config import SyntheticConfig
from data_builders.synthetic.corpus import build_corpus
from data_builders.synthetic.sources.building import build_sources
from data_builders.synthetic.sources.config import SourcesConfig
from exo2ego.console import console
from exo2ego.storage import read_jsonl
from tests.eval.tiny_model import tiny_model

SOURCES = ("egoschema", "qaego4d", "egotaskqa", "charades_ego", "ek100_mir", "egoplan", "vlnqa", "egomcq")
MODES = ("likelihood", "letter", "generate")


@dataclass(frozen=True)
class TinyEgoBench:
    """Where everything lies, and how many answers there must be."""

    folder: Path
    num_tables: int
    num_questions: int
    num_answers: int
    """In all modes; an open question has one."""

    def arguments(self, output: Path, *overrides: str) -> list[str]:
        """Returns the command line of an evaluation in all modes."""
        raw, tables = self.folder / "raw", self.folder / "egobench"
        modes = f"modes=[{','.join(MODES)}]"
        paths = [f"model={self.folder / 'model'}", f"data.root={raw}", f"data.questions={tables}", f"output={output}"]
        return [*paths, modes, "tasks=" + ",".join(self.tables), "max_new_tokens=2", *overrides]

    @property
    def tables(self) -> list[str]:
        """Returns the names of the tables."""
        return sorted(path.stem for path in (self.folder / "egobench").glob("*.jsonl"))


def make_egobench(folder: Path, *, num_rows: int = 12) -> TinyEgoBench:
    """Builds all in `folder`, or takes what an earlier call has built there."""
    tables = folder / "egobench"
    if not (folder / "model" / "config.json").exists():
        _build(folder, num_rows)
    rows = [row for path in sorted(tables.glob("*.jsonl")) for row in read_jsonl(path)]
    answers = sum(len(MODES) if row["options"] else 1 for row in rows)
    return TinyEgoBench(folder, len(list(tables.glob("*.jsonl"))), len(rows), answers)


def _build(folder: Path, num_rows: int) -> None:
    world = SyntheticConfig(takes=10, seconds_per_take=8, frame_size=32, exo_cameras=1, val_share=0.3)
    build_corpus(world, folder / "corpus", workers=1)
    build_sources(
        SourcesConfig(training_rows=12, benchmark_rows=num_rows), folder / "corpus", folder / "raw", workers=1
    )
    roots = [f"{source}.root={folder / 'raw' / source}" for source in SOURCES]
    settings = [f"out={folder / 'egobench'}", f"media_root={folder / 'raw'}", "missing_videos=stop"]
    console.quiet = True
    try:
        if egobench_builder.main([*settings, *roots]):
            raise SystemExit("EgoBench could not be built")
    finally:
        console.quiet = False
    model, processor = tiny_model()
    processor.save_pretrained(folder / "model")
    model.save_pretrained(folder / "model")
