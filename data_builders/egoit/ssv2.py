"""Something-Something-V2 as EgoIT conversations: which action is done with everyday objects in a clip of seconds.

Source: Something-Something-V2 (Qualcomm), 220,847 clips of 174 classes, `20bn-something-something-v2/<id>.webm`.
Licence: Qualcomm's research licence, with an account. Version: labels.zip, either as `labels/{labels,train,validation,
test}.json` and `labels/test-answers.csv` or under its older names `something-something-v2-….json`.

The 221K of Exo2Ego Table 1 are all three splits, which is the default; for the test split only the class is published.

Traps: ids are texts; the class is the template without its square brackets, whatever stands between them; the free
labels have typos; the labels.json of Something-Else numbers the same classes in another order and as integers.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import Field

from data_builders.egoit.conversations import ChoiceAnswer, ConversationMaker
from data_builders.media import MediaFolder
from data_builders.paper_counts import PaperCount
from data_builders.source import Account, EgoITOptions, Source, Tables, run_source
from exo2ego.errors import DataError
from exo2ego.raw.files import RawFiles
from exo2ego.raw.rows import FileStem, RawRow, Text
from exo2ego.records import Conversation

DATASET = "Something-Something-V2"
QUESTION = "What action is being performed?"
"""Not in the source and not stated in the paper."""
KIND = "action_recognition"
NUM_OPTIONS = 5
"""Options of a choice, as the action recognition task of EgoBench has them."""
LAYOUTS = (
    "20bn-something-something-v2/{video}.webm",
    "videos/{video}.webm",
    "{video}.webm",
    "20bn-something-something-v2/{video}.mp4",
    "videos/{video}.mp4",
    "{video}.mp4",
)
Split = Literal["train", "validation", "test"]


class Ssv2Options(EgoITOptions):
    """Options of `python -m data_builders.egoit.ssv2`."""

    splits: list[Split] = Field(default=["train", "validation", "test"], min_length=1)
    """The splits to take."""
    answers: Literal["class", "label", "choice"] = "class"
    """class: the name of the class; label: the sentence that names the objects, which test does not have; choice: the
    class out of five that are drawn."""
    choice_answer: ChoiceAnswer = "letter_and_text"
    """What a choice is answered with: `(B) text`, the letter, or the text."""


class LabelledRow(RawRow):
    """An item of train.json or validation.json."""

    id: FileStem
    label: Text
    template: Text


class UnlabelledRow(RawRow):
    """An item of test.json."""

    id: FileStem


class AnswerRow(RawRow):
    """A line of test-answers.csv."""

    id: FileStem
    class_name: Text


def read(options: Ssv2Options, account: Account) -> Tables[Conversation]:
    """Reads the splits in the given order."""
    files = RawFiles(options.root, DATASET)
    maker = ConversationMaker("ssv2", options, account)
    media = MediaFolder(options, LAYOUTS, account)
    classes = _classes(files)
    for split in dict.fromkeys(options.splits):
        files.find(*_places(f"{split}.json"), what=f"{split}.json")

    def conversations() -> Iterator[Conversation]:
        for split in dict.fromkeys(options.splits):
            for where, row_id, class_name, label in _rows(files, split, frozenset(classes)):
                conversation_id = maker.new_id(row_id, where)
                answer = label if options.answers == "label" else class_name
                if answer is None:
                    account.drop("test_has_no_label", where)
                    continue
                video = media.find(where, video=row_id)
                if video is None:
                    continue
                conversation = maker.make(where, conversation_id, video, QUESTION, answer, KIND)
                if options.answers == "choice":
                    wrong = _wrong_classes(classes, class_name, f"{options.seed}/ssv2/wrong/{row_id}")
                    conversation = maker.as_choice(conversation, wrong, options.choice_answer)
                yield conversation
        account.inputs = {**files.hashes(), **maker.inputs()}

    return {"ssv2": conversations()}


def _places(name: str) -> tuple[str, ...]:
    """Returns where a file of labels.zip may lie."""
    older = f"something-something-v2-{name}"
    return f"labels/{name}", name, older, f"labels/{older}"


def _classes(files: RawFiles) -> list[str]:
    path = files.find(*_places("labels.json"), what="labels.json")
    table = files.json_table(path, "class table")
    numbers = {number for number in table.values() if isinstance(number, str)}
    if not table or numbers != {str(number) for number in range(len(table))}:
        raise DataError(
            f'{path}: expected class names with their numbers as texts, "0" to "173" (Something-Else has integers): is '
            f"it the file of {DATASET}?"
        )
    faulty = next((name for name in table if not name.isprintable() or name != " ".join(name.split())), None)
    if faulty is not None:
        raise DataError(f"{path}: {faulty[:80]!a} is not the name of a class: expected printable text in one line")
    return sorted(table)


def _rows(files: RawFiles, split: Split, classes: frozenset[str]) -> Iterator[tuple[str, str, str, str | None]]:
    """Yields (place, id, class, label or None) of a split."""
    path = files.find(*_places(f"{split}.json"), what=f"{split}.json")
    if split == "test":
        answers = _test_answers(files, classes)
        for where, unlabelled in files.json_rows(path, UnlabelledRow, "test split"):
            if unlabelled.id not in answers:
                raise DataError(
                    f"{where}: test-answers.csv has no answer for {unlabelled.id!a}; are both of one download?"
                )
            yield where, unlabelled.id, answers[unlabelled.id], None
        return
    for where, row in files.json_rows(path, LabelledRow, f"{split} split"):
        class_name = row.template.replace("[", "").replace("]", "")
        yield where, row.id, _known(class_name, classes, where), row.label


def _test_answers(files: RawFiles, classes: frozenset[str]) -> dict[str, str]:
    path = files.find(*_places("test-answers.csv"), what="test-answers.csv (or leave `test` out of splits)")
    answers: dict[str, str] = {}
    rows = files.csv_rows(path, AnswerRow, "test answers", delimiter=";", columns=["id", "class_name"], quoting=False)
    for where, row in rows:
        if row.id in answers:
            raise DataError(f"{where}: a second answer for {row.id!a}")
        answers[row.id] = _known(row.class_name, classes, where)
    return answers


def _known(class_name: str, classes: frozenset[str], where: str) -> str:
    if class_name not in classes:
        raise DataError(f"{where}: {class_name[:80]!a} is not one of the {len(classes)} classes of labels.json")
    return class_name


def _wrong_classes(classes: Sequence[str], truth: str, draw: str) -> list[str]:
    wrong = [name for name in classes if name != truth]
    return random.Random(draw).sample(wrong, min(NUM_OPTIONS - 1, len(wrong)))


SOURCE = Source(
    name="ssv2",
    kind="egoit",
    options=Ssv2Options,
    read=read,
    tables=("ssv2",),
    paper={
        "ssv2": PaperCount(
            221_000,
            "Table 1",
            rounded_to=1000,
            reason="221K fits all three splits of the download, 220,847 clips",
        )
    },
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_source(SOURCE, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
