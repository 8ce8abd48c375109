"""What the tasks of lmms-eval ask: the questions of a table, the clip that shows each, and its prompt."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.clip_files import CLIPS_FOLDER, FAILURES_FILE, clip_file, unreadable_videos
from eval.prompts import PROMPTS, choice_turn, open_turn
from eval.questions import DataOptions, question_files, read_questions
from exo2ego.console import console
from exo2ego.data.prompting import LETTERS
from exo2ego.data.spans import Span
from exo2ego.errors import DataError
from exo2ego.records import Question

if TYPE_CHECKING:
    from datasets import Dataset  # type: ignore[import-untyped]

ROOT_VARIABLE = "EGOBENCH_ROOT"
QUESTIONS_VARIABLE = "EGOBENCH_QUESTIONS"
CLIPS_VARIABLE = "EGOBENCH_CLIPS"
RECORD = "record"
"""The column that holds a question whole, as JSON."""
MOST_UNREADABLE = 0.01
"""Share of a table's questions that may be left out because their video cannot be read, as in `eval.egobench`."""

Document = Mapping[str, Any]
"""A row of lmms-eval's data set."""


@dataclass(frozen=True)
class Places:
    """Where videos, question files and cut clips lie."""

    root: Path
    questions: Path | None
    """None: the folder `egobench` in `root`."""
    clips: Path

    @classmethod
    def of_environment(cls) -> Places:
        """Returns what the environment says; raises `DataError` where it does not name the folder of the videos."""
        root = os.environ.get(ROOT_VARIABLE, "")
        if not Path(root).is_dir() or not root:
            raise DataError(
                f"{ROOT_VARIABLE}={root}: expected the folder that the questions' video paths are relative to; "
                f"export {ROOT_VARIABLE}=DIR, and {QUESTIONS_VARIABLE}=DIR where the question files are not in "
                "DIR/egobench"
            )
        questions = os.environ.get(QUESTIONS_VARIABLE)
        clips = os.environ.get(CLIPS_VARIABLE)
        return cls(
            Path(root), Path(questions) if questions else None, Path(clips) if clips else Path(root) / CLIPS_FOLDER
        )


def read_table(stub: Dataset) -> Dataset:
    """Returns the questions of the table that the split of `stub` is named after (lmms-eval's `process_docs`).

    Raises `DataError` where the table or one of its videos is missing, before anything is asked.
    """
    from datasets import Dataset

    table = str(stub.split)
    places = Places.of_environment()
    options = DataOptions(root=places.root, questions=[places.questions] if places.questions else None)
    questions = _readable(read_questions(question_files(options, [table]), [table]), places, table)
    return Dataset.from_list([document(question) for question in questions], split=stub.split)


def _readable(questions: list[Question], places: Places, table: str) -> list[Question]:
    """Returns the questions whose video is there and can be read, as far as that is known."""
    videos = dict.fromkeys(question.video for question in questions)
    missing = [video for video in videos if not (places.root / video).exists()]
    if missing:
        raise DataError(
            f"{table}: {len(missing)} of {len(videos)} videos are not in {places.root}, the first: {missing[0]}; "
            f"set {ROOT_VARIABLE} or build the table again without them (docs/egobench.md)"
        )
    unreadable = unreadable_videos(places.clips)
    readable = [question for question in questions if Span.of(question).key not in unreadable]
    num_left_out = len(questions) - len(readable)
    if num_left_out > MOST_UNREADABLE * len(questions):
        raise DataError(
            f"{table}: the clips of {num_left_out} of {len(questions)} questions cannot be read "
            f"({places.clips / FAILURES_FILE}); repair the videos and run python -m eval.clip_files again"
        )
    if num_left_out:
        console.print(
            f"{table}: {num_left_out} questions are left out, their clips cannot be read "
            f"({places.clips / FAILURES_FILE})",
            markup=False,
        )
    return readable


def document(question: Question) -> dict[str, Any]:
    """Returns the row of a question: the whole record, and beside it what a reader of lmms-eval's logs looks for."""
    letter = "" if question.answer_index is None else LETTERS[question.answer_index]
    return {
        "id": question.question_id,
        "video": question.video,
        "question": question.question,
        "options": question.options,
        "answer": letter if question.options else question.answer_text,
        RECORD: question.model_dump_json(by_alias=True),
    }


def question_of(doc: Document) -> Question:
    """Returns the question of a row that `document` made."""
    return Question.model_validate_json(doc[RECORD])


def shown_video(doc: Document) -> list[str]:
    """Returns the file that shows the question's clip and nothing else (lmms-eval's `doc_to_visual`)."""
    places = Places.of_environment()
    return [str(clip_file(Span.of(question_of(doc)), places.root, places.clips))]


def choice_text(doc: Document) -> str:
    """Returns the turn that asks for a letter, as `modes=letter` and `modes=generate` of `eval.egobench` do."""
    question = question_of(doc)
    return choice_turn(PROMPTS["first_person@1"], question.question, question.options)


def bare_text(doc: Document) -> str:
    """Returns the turn without options, as `modes=likelihood` does."""
    return open_turn(PROMPTS["question_only@1"], question_of(doc).question)


def open_text(doc: Document) -> str:
    """Returns the turn of an open question."""
    return open_turn(PROMPTS["short_answer@1"], question_of(doc).question)


def option_texts(doc: Document) -> list[str]:
    """Returns what is scored after the bare question."""
    return list(question_of(doc).options)


def option_letters(doc: Document) -> list[str]:
    """Returns what is scored after the lettered options."""
    return list(LETTERS[: len(question_of(doc).options)])
