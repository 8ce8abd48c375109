"""The prompt of a record exactly as training or evaluation builds it, in pieces that say what carries the loss."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from exo2ego.data.prompting import CAPTION_REQUEST, LETTERS, user_turn
from exo2ego.errors import CheckpointError, Exo2EgoError
from exo2ego.records import AnswerMode, Clip, Conversation, Prediction, Question, Record
from exo2ego.storage import read_json

if TYPE_CHECKING:
    from exo2ego.data.processor import Exo2EgoProcessor

PieceKind = Literal["prompt", "target", "video"]
BYTES_OF_A_CHARACTER = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Piece:
    """One token, a run of `<video>` placeholders, or, without a model, a stretch of text."""

    kind: PieceKind
    text: str
    token_id: int | None = None
    count: int = 1


@dataclass(frozen=True)
class Prompt:
    """What the model gets for one record in one form."""

    title: str
    pieces: list[Piece]
    note: str
    """How many tokens, or that it is text only."""


@dataclass(frozen=True)
class PromptBuilder:
    """Builds prompts with the processor of a model, or with a stand-in of which only the text form is shown."""

    processor: Exo2EgoProcessor
    text_format: Literal["plain", "chat"]
    """The form in which the model's stage trains on narrations."""
    has_model: bool

    def __call__(self, record: Record) -> list[Prompt]:
        """Returns the forms in which a record is put to the model: one for training data, two for a question."""
        if isinstance(record, Clip):
            plain = self.text_format == "plain"
            prompt = self.processor.plain_prompt() if plain else self.processor.chat_prompt(CAPTION_REQUEST)
            return [self._built(f"in training, {self.text_format} form", prompt, record.text)]
        if isinstance(record, Conversation):
            turn = user_turn(record.instruction, record.question, record.options)
            return [self._built("in training", self.processor.chat_prompt(turn), record.answer)]
        if isinstance(record, Question):
            modes: tuple[AnswerMode, ...] = ("likelihood", "letter") if record.options else ("likelihood",)
            return [self.asked(record, mode) for mode in modes]
        return []

    def asked(self, question: Question, mode: AnswerMode) -> Prompt:
        """Returns the evaluation's default prompt of one mode; the target is what the truth is scored by."""
        from eval.egobench import EgoBenchConfig
        from eval.prompts import PROMPTS, choice_turn, open_turn

        defaults = EgoBenchConfig.model_fields
        truth = question.answer_index
        if mode == "likelihood" or not question.options:
            name = defaults["likelihood_prompt"].default
            turn = open_turn(PROMPTS[name], question.question)
            target = question.answer_text or "" if truth is None else question.options[truth]
        else:
            name = defaults["prompt"].default
            turn = choice_turn(PROMPTS[name], question.question, question.options)
            target = "" if truth is None else LETTERS[truth]
        return self._built(f"in evaluation, by {mode}: {name}", self.processor.chat_prompt(turn), target)

    def _built(self, title: str, prompt: str, target: str) -> Prompt:
        if self.has_model:
            return self._tokenized(title, prompt, target)
        before, _, after = prompt.partition(self._video_token)
        pieces = [Piece("prompt", before), Piece("video", self._video_token), Piece("prompt", after)]
        pieces.append(Piece("target", target))
        note = "text only, without the end token; for the tokens of a model give --model"
        return Prompt(title, [piece for piece in pieces if piece.text], note)

    @property
    def _video_token(self) -> str:
        return str(self.processor.tokenizer.decode([self.processor.video_token_id]))

    def _tokenized(self, title: str, prompt: str, target: str) -> Prompt:
        prompt_ids = self.processor.encode_prompt(prompt)
        target_ids = self.processor.encode_continuation(target) if target else []
        texts = token_texts(self.processor.tokenizer, prompt_ids + target_ids)
        kinds: list[PieceKind] = [
            "video" if token == self.processor.video_token_id else "prompt" for token in prompt_ids
        ]
        kinds += ["target"] * len(target_ids)
        pieces: list[Piece] = []
        tokens = zip(kinds, texts, prompt_ids + target_ids, strict=True)
        for kind, group in itertools.groupby(tokens, key=lambda token: token[0]):
            members = list(group)
            if kind == "video":
                pieces.append(Piece("video", self._video_token, members[0][2], len(members)))
            else:
                pieces += [Piece(kind, text, token_id) for _, text, token_id in members]
        num_video = kinds.count("video")
        note = (
            f"{num_video:,} video + {len(prompt_ids) - num_video:,} prompt + {len(target_ids):,} target tokens, "
            f"view {self.processor.default_view}, {self.processor.num_frames} frames"
        )
        return Prompt(title, pieces, note)


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Returns what each token adds to the decoded text, spaces included.

    A character of several tokens comes with its last one; the others are shown under their name in the vocabulary.
    """
    decode: Callable[[Sequence[int]], str] = partial(
        tokenizer.decode, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    texts: list[str] = []
    start, shown, is_whole = 0, "", True
    for end in range(1, len(ids) + 1):
        if end - start > 32 and is_whole:  # decoding from a little before is enough, and keeps this linear
            start, shown = end - 2, decode(ids[end - 2 : end - 1])
        text = decode(ids[start:end])
        is_whole = not text.endswith(BYTES_OF_A_CHARACTER)
        if is_whole and text.startswith(shown):
            texts.append(text[len(shown) :])
        else:
            texts.append(str(tokenizer.convert_ids_to_tokens(ids[end - 1])))
        shown = text if is_whole else shown
    return texts


def load_builder(model: Path | None) -> PromptBuilder:
    """Loads the processor of a run or an exported model, without its weights; without a model, a stand-in.

    Raises `CheckpointError` where there is none.
    """
    from exo2ego.data.processor import Exo2EgoProcessor

    if model is None:
        from exo2ego.model.small_language import train_tokenizer

        return PromptBuilder(Exo2EgoProcessor(train_tokenizer([], 260)), "plain", has_model=False)
    folders = (model / "processor", model, model.parent.parent / "processor")  # run, exported model, checkpoint
    folder = next((folder for folder in folders if (folder / "processor_config.json").is_file()), None)
    if folder is None:
        raise CheckpointError(f"{model}: holds no processor; give a run folder, a checkpoint or an exported model")
    try:
        processor = Exo2EgoProcessor.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: the processor cannot be loaded: {error}") from error
    return PromptBuilder(processor, _text_format(folder), has_model=True)


def _text_format(folder: Path) -> Literal["plain", "chat"]:
    """Returns the text format that the run was configured with, "plain" where no record tells."""
    for record in (folder.parent / "run.json", folder / "provenance.json"):
        if record.is_file():
            told = read_json(record, "description of the run")
            told = told.get("provenance", told)
            return "chat" if told.get("config", {}).get("data", {}).get("text_format") == "chat" else "plain"
    return "plain"


def prompts_of(
    builder: PromptBuilder, record: Record, prediction: Prediction | None
) -> tuple[list[Prompt], str | None]:
    """Returns the prompts of a record, in the mode of its prediction where there is one, or why there are none."""
    try:
        if prediction is not None and isinstance(record, Question):
            return [builder.asked(record, prediction.mode)], None
        return builder(record), None
    except (Exo2EgoError, ValueError) as error:
        return [], str(error)
