"""What the EgoIT readers share: from a row of a source to a `Conversation` with an instruction drawn for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from data_builders.egobench.options import shuffled_options
from data_builders.egoit.instructions import PACKAGED, draw_instruction, read_instructions
from data_builders.source import Account, EgoITOptions
from exo2ego.data.prompting import LETTER_REQUEST, LETTERS
from exo2ego.errors import DataError
from exo2ego.records import Conversation
from exo2ego.storage import hash_file

ChoiceAnswer = Literal["letter_and_text", "letter", "text"]
"""What a multiple-choice question is answered with: `(B) on the table`, `B`, or `on the table`."""


class ConversationMaker:
    """Makes the conversations of one source; `account` gets the rows whose spans are odd."""

    def __init__(self, source: str, options: EgoITOptions, account: Account) -> None:
        self._source = source
        self._seed = options.seed
        self._account = account
        self._instructions_file = options.instructions or PACKAGED / f"{source}.json"
        self._instructions = read_instructions(source, self._instructions_file)
        self._ids: set[str] = set()

    def inputs(self) -> dict[str, str]:
        """Returns the SHA-256 of the instruction file, for the account."""
        return {f"instructions/{self._instructions_file.name}": hash_file(self._instructions_file)}

    def new_id(self, row_id: str, where: str) -> str:
        """Returns the id of a conversation; raises `DataError` for a row whose id was there before."""
        if row_id in self._ids:
            raise DataError(f"{where}: the id {row_id[:80]!a} is given twice in {self._source}; expected unique ids")
        self._ids.add(row_id)
        return f"{self._source}/{row_id}"

    def can_show(self, span: tuple[float, float], where: str) -> bool:
        """Says whether a span can be shown, and drops one that ends before it starts, or before the video starts."""
        start_s, end_s = span
        if end_s < max(start_s, 0):
            self._account.drop("ends_before_it_starts", where)
            return False
        return True

    def make(
        self,
        where: str,
        conversation_id: str,
        video: str,
        question: str,
        answer: str,
        kind: str,
        span: tuple[float, float] | None = None,
    ) -> Conversation:
        """Returns a conversation about a span of a video in seconds, cut at its start, or about all of it."""
        start_s, end_s = self._clean(span, where) if span is not None else (None, None)
        return Conversation(
            id=conversation_id,
            source=self._source,
            video=video,
            start=start_s,
            end=end_s,
            instruction=draw_instruction(self._instructions, self._seed, conversation_id),
            question=question,
            answer=answer,
            type=kind,
        )

    def _clean(self, span: tuple[float, float], where: str) -> tuple[float, float]:
        start_s, end_s = span
        if start_s < 0:
            self._account.note("starts_before_the_video", where)
        elif start_s == end_s:
            self._account.note("span_without_length", where)
        return round(max(start_s, 0), 6), round(end_s, 6)

    def as_choice(self, conversation: Conversation, wrong: Sequence[str], form: ChoiceAnswer) -> Conversation:
        """Returns the conversation as a choice between its answer and wrong ones, in an order drawn for it.

        Where only the letter is wanted, the instruction asks for it as the evaluation does.
        """
        options, index = shuffled_options(
            conversation.answer,
            wrong,
            task=self._source,
            question_id=conversation.conversation_id,
            seed=self._seed,
        )
        letter = LETTERS[index]
        changes: dict[str, object] = {"options": options}
        if form == "letter":
            changes |= {"answer": letter, "instruction": f"{conversation.instruction} {LETTER_REQUEST}"}
        elif form == "letter_and_text":
            changes["answer"] = f"({letter}) {options[index]}"
        return conversation.model_copy(update=changes)
