"""What all builders of EgoIT and EgoBench share: options, the account of rows, output files, the command."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from data_builders.paper_counts import PaperCount, compare
from exo2ego.command_line import run_flagged
from exo2ego.config import Config
from exo2ego.console import console
from exo2ego.errors import ConfigError, DataError
from exo2ego.provenance import provenance
from exo2ego.records import Record
from exo2ego.storage import atomic_path, hash_file, remove_leftovers, write_json, write_jsonl

MAX_EXAMPLES = 5


class DatasetOptions(Config):
    """Where a raw dataset and its videos lie, and where the result goes."""

    root: Path
    """Folder of the dataset's annotations as downloaded."""
    out: Path
    """Folder for the result; one that is there gets the new files when all of them are made."""
    videos: Path | None = None
    """Folder of the videos, where it is not `root`."""
    media_root: Path | None = None
    """Folder that the paths in the records are relative to: the training's data.root (default: the videos' folder)."""
    missing_videos: Literal["keep", "drop", "stop"] = "keep"
    """What happens to a row whose video is not there: it stays and is counted, is left out, or stops the build."""

    @property
    def videos_folder(self) -> Path:
        """Folder of the videos."""
        return self.videos or self.root


class SourceOptions(DatasetOptions):
    """Options of every builder of records with questions."""

    seed: int = 0
    """Decides everything that is drawn; each row draws by its own id."""


class EgoITOptions(SourceOptions):
    """Options of every EgoIT builder."""

    instructions: Path | None = None
    """JSON file with the instructions to draw from (default: the ten that come with the package)."""


OptionsType = TypeVar("OptionsType", bound=DatasetOptions)
RecordType = TypeVar("RecordType", bound=Record)


@dataclass
class Account:
    """Where every raw row went: kept, left out and why, or kept although something was odd."""

    kept: Counter[str] = field(default_factory=Counter)
    """Records by table."""
    dropped: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    """Places of the first rows of each reason."""
    inputs: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the files that were read; the reader fills it (`RawFiles.hashes`)."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Further numbers of one source for its summary, for example the mean length of its clips."""

    def drop(self, reason: str, where: str) -> None:
        """Counts a row that is left out."""
        self.dropped[reason] += 1
        self._example(reason, where)

    def note(self, reason: str, where: str) -> None:
        """Counts a row that is kept although something about it is odd."""
        self.noted[reason] += 1
        self._example(reason, where)

    def _example(self, reason: str, where: str) -> None:
        examples = self.examples.setdefault(reason, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(where)


Tables = Mapping[str, Iterable[RecordType]]
"""The records of a source by the name of their table (an EgoBench task, or the EgoIT source)."""


@dataclass(frozen=True)
class Source(Generic[OptionsType, RecordType]):
    """One raw dataset: its name, its options, and the function that reads it."""

    name: str
    kind: Literal["egoit", "egobench", "initialisation"]
    options: type[OptionsType]
    read: Callable[[OptionsType, Account], Tables[RecordType]]
    """Returns the records by table; raises `DataError` naming file and row. Rows left out go into the account."""
    tables: tuple[str, ...]
    """The tables that it can make."""
    paper: Mapping[str, PaperCount] = field(default_factory=dict)
    """What the paper counts, by table, or by tables joined with `+` where it counts them together."""
    finish: Callable[[OptionsType, Mapping[str, Path], Account], None] | None = None
    """Makes further files of the finished tables (a quality report)."""

    @property
    def module(self) -> str:
        """The module that `python -m` runs."""
        return (
            f"data_builders.{self.name}" if self.kind == "initialisation" else f"data_builders.{self.kind}.{self.name}"
        )


def build_source(source: Source[OptionsType, RecordType], options: OptionsType) -> dict[str, Any]:
    """Builds all tables of a source and returns the summary; nothing is replaced before every row was read."""
    if options.out.resolve() == options.root.resolve():
        raise ConfigError(f"out: {options.out} is the folder of the raw dataset; give another, so that nothing is lost")
    account = Account()
    remove_leftovers(options.out)
    summary_path = options.out / f"{source.name}.summary.json"
    written: dict[str, Path] = {}
    with contextlib.ExitStack() as stack:
        for table, records in source.read(options, account).items():
            if table not in source.tables:
                raise ValueError(f"{source.module} made `{table}`, which it does not declare")
            written[table] = options.out / f"{table}.jsonl"
            temporary = stack.enter_context(atomic_path(written[table]))
            write_jsonl(temporary, _checked(table, records, account))
            if source.kind == "egobench":
                _write_json_list(stack.enter_context(atomic_path(options.out / f"{table}.json")), temporary)
        if not sum(account.kept.values()):
            raise DataError(f"{options.root}: {source.name}: no row was kept; left out: {dict(account.dropped)}")
        _require_other_files(options, account, written)
        for outdated in (summary_path, *_reports(source, options.out)):  # they tell of the tables that now go
            outdated.unlink(missing_ok=True)
    for table in set(source.tables) - set(written):  # of a former build from more files
        for suffix in (".jsonl", ".json") if source.kind == "egobench" else ():
            (options.out / f"{table}{suffix}").unlink(missing_ok=True)
    if source.finish is not None:
        source.finish(options, {table: path for table, path in written.items() if account.kept[table]}, account)
    summary = _summary(source, options, account, written)
    write_json(summary_path, summary)
    return summary


def _require_other_files(options: DatasetOptions, account: Account, written: Mapping[str, Path]) -> None:
    """Raises `ConfigError` where a table would take the place of a file that it was made from."""
    inputs = {(options.root / name).resolve() for name in account.inputs}
    for path in written.values():
        if inputs & {path.resolve(), path.with_suffix(".json").resolve()}:
            raise ConfigError(f"out: {options.out} holds {path.stem}, a file of the raw dataset; give another folder")


def _reports(source: Source[Any, Any], out: Path) -> list[Path]:
    suffixes = (".quality.json", ".quality.md", ".similarities.png")
    return [out / f"{table}{suffix}" for table in source.tables for suffix in suffixes]


def _write_json_list(path: Path, rows: Path) -> None:
    """Writes the rows of a JSONL file as one JSON list, row by row."""
    with path.open("w", encoding="utf-8") as stream, rows.open(encoding="utf-8") as lines:
        stream.write("[")
        for number, line in enumerate(lines):
            stream.write(("," if number else "") + "\n" + line.rstrip("\n"))
        stream.write("\n]\n")


def _checked(table: str, records: Iterable[Record], account: Account) -> Iterator[dict[str, Any]]:
    """Yields the rows of a table; raises `DataError` for an id that is given twice."""
    seen: set[str] = set()
    for record in records:
        row = record.to_row()
        if row["id"] in seen:
            raise DataError(f"{table}: id {row['id']!a} would be given to two records: ids must be unique")
        seen.add(row["id"])
        account.kept[table] += 1
        yield row


def _summary(
    source: Source[Any, Any], options: DatasetOptions, account: Account, written: Mapping[str, Path]
) -> dict[str, Any]:
    return {
        "source": source.name,
        "tables": {
            table: {"file": path.name, "rows": account.kept[table], "sha256": hash_file(path)}
            for table, path in written.items()
        },
        "paper": [
            compare(tables, paper, sum(account.kept[table] for table in tables.split("+")))
            for tables, paper in source.paper.items()
            if set(tables.split("+")) & set(written)
        ],
        "dropped": dict(sorted(account.dropped.items())),
        "noted": dict(sorted(account.noted.items())),
        "examples": account.examples,
        "facts": account.facts,
        "provenance": provenance(options.model_dump(mode="json"), getattr(options, "seed", None), account.inputs),
    }


def print_summary(summary: Mapping[str, Any]) -> None:
    """Prints the counts of a build beside the paper's, and what was left out."""
    lines = [f"{table}: {told['rows']:,} rows" for table, told in summary["tables"].items()]
    lines += [compared["sentence"] for compared in summary["paper"]]
    lines += [f"left out, {reason}: {count:,}" for reason, count in summary["dropped"].items()]
    lines += [f"kept, but {reason}: {count:,}" for reason, count in summary["noted"].items()]
    lines += [f"{name}: {value}" for name, value in summary["facts"].items() if not isinstance(value, dict | list)]
    for line in lines:
        console.print(line, markup=False)


def run_source(source: Source[OptionsType, RecordType], description: str | None, argv: Sequence[str] | None) -> int:
    """Runs `python -m data_builders.<kind>.<name> --root … --out …`."""

    def act(options: OptionsType) -> None:
        print_summary(build_source(source, options))
        console.print(f"written: {options.out}", markup=False)

    return run_flagged(source.module, description, source.options, act, argv)
