"""How guessable an EgoBench table is: distractors that are true, similarities, the truth's place, blind baselines.

Reads a built table alone and writes TABLE.quality.json, TABLE.quality.md and, where the options were made by
similarity, TABLE.similarities.png beside it or into --out. See docs/distractors.md.
"""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from data_builders.distractors.encoder import PACKAGED_MODEL, TextEncoder, load_encoder
from data_builders.distractors.guessability import (
    Choice,
    also_correct,
    blind_baselines,
    position_balance,
    similarities,
)
from data_builders.distractors.options import DistractorOptions, embeddings_folder
from data_builders.distractors.quality_report import summary_sentence, write_histogram, write_report
from data_builders.source import Account, DatasetOptions
from exo2ego.command_line import run_flagged
from exo2ego.config import Config
from exo2ego.console import console
from exo2ego.errors import ConfigError, DataError
from exo2ego.provenance import provenance
from exo2ego.raw.rows import describe_faults
from exo2ego.records import Question
from exo2ego.storage import atomic_path, hash_file, read_jsonl, write_json, write_text


class QualityOptions(Config):
    """Options of `python -m data_builders.distractors.quality`."""

    questions: list[Path] = Field(min_length=1)
    """Built EgoBench tables (JSONL)."""
    out: Path | None = None
    """Folder for the reports (default: beside each table)."""
    encoder: str = PACKAGED_MODEL
    """The SentenceBERT model of the nearest-text baseline: a hub name or a folder."""
    embeddings: Path | None = None
    """Folder that keeps embedded texts (default: they are not kept)."""


def report_quality(options: DatasetOptions, written: Mapping[str, Path], account: Account) -> None:
    """Writes the report of every table of a build beside it: the `finish` of an EgoBench source.

    A source without SentenceBERT options gets no nearest-text baseline: the build then needs no encoder.
    """
    encoder, cache = None, None
    if isinstance(options, DistractorOptions):
        encoder, cache = load_encoder(options.encoder), embeddings_folder(options)
    for table, path in written.items():
        quality = measure_quality(path, encoder, cache)
        write_quality(quality, options.out)
        account.facts[f"quality of {table}"] = summary_sentence(quality)


def measure_quality(path: Path, encoder: TextEncoder | None, cache: Path | None = None) -> dict[str, Any]:
    """Returns the report of one table as JSON values; raises `DataError` where the file is no EgoBench table."""
    num_questions, num_open, choices = 0, 0, []
    for question, told in _read(path):
        num_questions += 1
        num_open += not question.options
        if question.options and question.answer_index is not None:
            choices.append(
                Choice(
                    question.question,
                    tuple(question.options),
                    question.answer_index,
                    question.video,
                    told.also_correct,
                    told.similarities,
                )
            )
    if not num_questions:
        raise DataError(f"{path}: holds no questions; expected a table that a builder of data_builders.egobench wrote")
    return {
        "table": path.stem,
        "sha256": hash_file(path),
        "questions": num_questions,
        "open_questions": num_open,
        "questions_without_public_answer": num_questions - num_open - len(choices),
        "questions_judged": len(choices),
        "videos": len({choice.video for choice in choices}),
        "options": {str(size): count for size, count in sorted(Counter(len(one.options) for one in choices).items())},
        "also_correct": also_correct(choices),
        "similarities": similarities(choices),
        "positions": position_balance(choices) if choices else None,
        "baselines": blind_baselines(choices, encoder, cache) if choices else None,
        "encoder": None if encoder is None else encoder.name,
    }


class _Told(BaseModel):
    """The keys of a question's `meta` that matter here."""

    also_correct: tuple[int, ...] | None = None
    similarities: tuple[FiniteFloat, ...] | None = None


def _read(path: Path) -> Iterator[tuple[Question, _Told]]:
    for number, row in enumerate(read_jsonl(path, "question file"), 1):
        where = f"{path}: question {number}"
        try:
            question = Question.model_validate(row)
            told = _Told.model_validate(question.meta)
        except ValidationError as error:
            raise DataError(f"{where} is not an EgoBench record: {describe_faults(error)}") from error
        if told.similarities is not None and len(told.similarities) != len(question.options):
            raise DataError(
                f"{where}: meta.similarities has {len(told.similarities)} values for {len(question.options)} options"
            )
        others = set(range(len(question.options))) - {question.answer_index}
        if not set(told.also_correct or ()) <= others:
            raise DataError(f"{where}: meta.also_correct names {told.also_correct}, not other options than the answer")
        yield question, told


def write_quality(quality: Mapping[str, Any], folder: Path) -> None:
    """Writes the report as JSON, as Markdown, and the histogram of similarities where there is one."""
    table = quality["table"]
    picture = None
    if quality["similarities"] is not None and importlib.util.find_spec("matplotlib") is not None:
        picture = f"{table}.similarities.png"
        with atomic_path(folder / picture) as temporary:
            write_histogram(quality["similarities"], temporary)
    write_json(
        folder / f"{table}.quality.json", {**quality, "provenance": provenance({}, None, {table: quality["sha256"]})}
    )
    write_text(folder / f"{table}.quality.md", write_report(quality, picture))


def _measure_all(options: QualityOptions) -> None:
    written = [(path, options.out or path.parent) for path in options.questions]
    places = Counter((folder.resolve(), path.stem) for path, folder in written)
    repeated = [name for (_, name), count in places.items() if count > 1]
    if repeated:
        raise ConfigError(f"questions: two files would write {repeated[0]}.quality.json; give them one at a time")
    encoder = load_encoder(options.encoder)
    for path, folder in written:
        quality = measure_quality(path, encoder, options.embeddings)
        write_quality(quality, folder)
        console.print(
            f"{path.stem}: {summary_sentence(quality)}; written: {folder / path.stem}.quality.md", markup=False
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m data_builders.distractors.quality`."""
    return run_flagged("data_builders.distractors.quality", __doc__, QualityOptions, _measure_all, argv)


if __name__ == "__main__":
    sys.exit(main())
