"""Writes EgoBench questions as custom data sets of VLMEvalKit: tables, and pictures of clips (docs/lmms_eval.md).

VLMEvalKit has a class for multiple-choice questions about pictures that takes any table, and none for videos
(`vlmeval/dataset/__init__.py`, `build_dataset`): a clip is given as the frames that `eval.egobench` shows, in order.
"""

from __future__ import annotations

import csv
import io
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field

from eval.questions import QuestionSource, by_clip, question_files, read_questions
from exo2ego.command_line import RunOptions, run_configured
from exo2ego.config import Config
from exo2ego.console import console, track
from exo2ego.data.prompting import LETTERS
from exo2ego.data.spans import Span
from exo2ego.data.video import read_span
from exo2ego.errors import DataError, EvaluationError, VideoError
from exo2ego.parallel import in_order
from exo2ego.provenance import provenance
from exo2ego.records import Question
from exo2ego.storage import atomic_path, hash_file, write_json, write_jsonl, write_text

DESCRIPTION = """\
Writes EgoBench_<table>.tsv and the pictures of its clips to a folder that VLMEvalKit reads as $LMUData. What is there
already is kept: the same command continues where it was stopped."""
PREFIX = "EgoBench_"
"""Of a data set's name; without `video` or `openended`, from which VLMEvalKit would conclude another kind."""
JPEG_QUALITY = 95


class ExportConfig(Config):
    """What to write."""

    data: QuestionSource
    """Where videos and questions lie."""
    tasks: list[str] | None = Field(default=None, min_length=1)
    """Tables of questions, or all of a dataset: egoschema, qaego4d, …; null: all that `data` has."""
    out: Path
    """Folder to write to, VLMEvalKit's $LMUData."""
    num_frames: int = Field(default=16, ge=1)
    """Pictures per clip."""
    num_workers: int = Field(default=2, ge=0)
    """Threads that read clips."""
    max_failure_rate: float = Field(default=0.01, ge=0, le=1)
    """Share of questions that may be left out because their video is unreadable."""


def table_text(questions: Sequence[Question], pictures: Mapping[Span, Sequence[Path]]) -> str:
    """Returns the tab-separated table: index, id, image_path, question, A, B, …, answer, category.

    Raises `EvaluationError` where VLMEvalKit, which reads it with pandas, would get another text.
    """
    letters = LETTERS[: max(len(question.options) for question in questions)]
    columns = ["index", "id", "image_path", "question", *letters, "answer", "category"]
    written = _kept_by_pandas(questions)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, dialect="excel-tab", lineterminator="\n")
    writer.writeheader()
    for index, question in enumerate(questions):
        assert question.answer_index is not None
        writer.writerow(
            {
                "index": index,
                "id": question.question_id,
                "image_path": str([str(path.absolute()) for path in pictures[Span.of(question)]]),
                "question": question.question,
                **dict(zip(letters, written[question.question_id], strict=False)),
                "answer": LETTERS[question.answer_index],
                "category": question.task,
            }
        )
    _require_same_in_pandas(buffer.getvalue(), questions, written)
    return buffer.getvalue()


def _kept_by_pandas(questions: Sequence[Question]) -> dict[str, list[str]]:
    """Returns the options by question id; what pandas takes for a missing value (None, NA, …) gets a final dot."""
    import pandas  # type: ignore[import-untyped]

    texts = list(dict.fromkeys(option for question in questions for option in question.options))
    buffer = io.StringIO()
    csv.writer(buffer, dialect="excel-tab").writerows([("text", "number"), *((text, 0) for text in texts)])
    buffer.seek(0)
    is_lost = dict(zip(texts, pandas.read_csv(buffer, sep="\t")["text"].isna(), strict=True))
    return {
        question.question_id: [f"{option}." if is_lost[option] else option for option in question.options]
        for question in questions
    }


def _require_same_in_pandas(text: str, questions: Sequence[Question], written: Mapping[str, Sequence[str]]) -> None:
    import pandas

    table = pandas.read_csv(io.StringIO(text), sep="\t")
    for question, row in zip(questions, table.to_dict("records"), strict=True):
        options = written[question.question_id]
        wanted = [question.question_id, question.question, *options]
        read = [row["id"], row["question"], *(row[letter] for letter in LETTERS[: len(options)])]
        if read != wanted:
            raise EvaluationError(
                f"question {question.question_id}: pandas, with which VLMEvalKit reads its tables, turns {wanted} into "
                f"{read}; it cannot be exported"
            )


def picture_paths(span: Span, config: ExportConfig) -> list[Path]:
    """Returns where the pictures of a clip lie, in order."""
    folder = config.out / "images" / "EgoBench" / span.key
    return [folder / f"frame-{number}-of-{config.num_frames}.jpg" for number in range(1, config.num_frames + 1)]


def _write_pictures(span: Span, config: ExportConfig) -> list[Path] | VideoError:
    """Writes the frames of a clip where they are not there yet; returns their paths in order, or what is wrong."""
    paths = picture_paths(span, config)
    if all(path.exists() for path in paths):
        return paths
    from PIL import Image

    try:
        frames = read_span(config.data.root, span, config.num_frames).frames
    except VideoError as error:
        return error
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    for path, frame in zip(paths, frames, strict=True):
        with atomic_path(path) as temporary:
            Image.fromarray(frame).save(temporary, format="JPEG", quality=JPEG_QUALITY)
    return paths


def show_plan(usable: Sequence[Question], spans: Sequence[Span], config: ExportConfig) -> int:
    """Says what would be written, and reads the first clip; nothing is written to `out`."""
    for task, count in Counter(question.task for question in usable).items():
        console.print(f"{config.out / f'{PREFIX}{task}.tsv'}: {count} questions", markup=False)
    num_pictures = sum(not path.exists() for span in spans for path in picture_paths(span, config))
    console.print(f"{len(spans)} clips; {num_pictures} pictures would be written", markup=False)
    with tempfile.TemporaryDirectory() as temporary:
        for span in spans[:1]:
            found = _write_pictures(span, config.model_copy(update={"out": Path(temporary)}))
            if isinstance(found, VideoError):
                console.print(f"the first clip cannot be read: {found}", markup=False)
    return 0


def export(config: ExportConfig, options: RunOptions) -> int:
    """Writes pictures and tables, and says what was left out; raises `DataError` where too many videos fail."""
    files = question_files(config.data, config.tasks)
    asked = read_questions(files, config.tasks)
    usable = [question for question in asked if question.options and question.answer_index is not None]
    spans = [Span.of(clip[0]) for clip in by_clip(usable)]
    if options.dry_run:
        return show_plan(usable, spans, config)
    written = in_order(lambda span: _write_pictures(span, config), spans, config.num_workers)
    found = dict(zip(spans, track(written, "clips", total=len(spans)), strict=True))
    failed = {span: error for span, error in found.items() if isinstance(error, VideoError)}
    pictures = {span: paths for span, paths in found.items() if not isinstance(paths, VideoError)}
    shown = [question for question in usable if Span.of(question) in pictures]
    write_jsonl(
        config.out / "failures.jsonl",
        ({"video": span.video, "reason": error.reason, "detail": error.detail} for span, error in failed.items()),
    )
    if len(usable) - len(shown) > config.max_failure_rate * len(usable):
        raise DataError(
            f"the videos of {len(usable) - len(shown)} of {len(usable)} questions cannot be read, the first: "
            f"{next(iter(failed.values()))}; repair them and run again, or raise max_failure_rate"
        )
    for task in dict.fromkeys(question.task for question in shown):
        rows = [question for question in shown if question.task == task]
        write_text(config.out / f"{PREFIX}{task}.tsv", table_text(rows, pictures))
        console.print(f"{config.out / f'{PREFIX}{task}.tsv'}: {len(rows)} questions", markup=False)
    made_by = provenance(config.model_dump(mode="json"), None, {str(path): hash_file(path) for path in files})
    write_json(config.out / f"{PREFIX}export.json", made_by)
    num_open = sum(not question.options for question in asked)
    console.print(
        f"left out: {num_open} open questions, {len(asked) - num_open - len(usable)} whose answer is not public, "
        f"{len(usable) - len(shown)} whose video cannot be read",
        markup=False,
    )
    return 0


CONFIG = ExportConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m eval.export_vlmevalkit`."""
    return run_configured("eval.export_vlmevalkit", DESCRIPTION, ExportConfig, export, argv, has_checkpoints=False)


if __name__ == "__main__":
    sys.exit(main())
