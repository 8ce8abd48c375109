"""A small language model learns the corpus's language: the stand-in for Mistral-7B-Instruct in the quickstart.

Not a stage of the paper. Text only, and it never sees a picture. A published language model can answer from a
description that stands before the question. A small one that has only seen sentences learns to ignore what stands
before them, and a frozen copy of it cannot be spoken to through visual tokens: the loss of the initialisation then does
not move at all. So most lines hold, where the video will stand, words of the narration in a random order.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from exo2ego import provenance
from exo2ego.command_line import RunOptions, run_configured
from exo2ego.config import Config
from exo2ego.console import console
from exo2ego.data.prompting import LETTERS
from exo2ego.errors import CheckpointError
from exo2ego.model.options import SmallLanguageOptions
from exo2ego.records import Conversation
from exo2ego.storage import hash_file, read_json
from exo2ego.train.options import OptimOptions

WITHOUT_WORDS = 0.1
WORD_KEPT = 0.85


class InitLanguageConfig(Config):
    """Making the stand-in language model."""

    clips: str
    """Ego-ExoClip table of the training takes; its narrations are the corpus."""
    conversations: list[str] = Field(default_factory=list)
    """Files of conversations (JSONL) about the training takes; their turns teach the form of questions."""
    conversation_passes: int = Field(default=1, ge=1)
    """How often a pass over the corpus reads every conversation, each time with other words before it."""
    output_dir: str
    """Folder of the language model, in transformers' form."""
    sizes: SmallLanguageOptions = SmallLanguageOptions()
    """Model sizes."""
    optim: OptimOptions
    """Optimiser."""
    batch_size: int = Field(default=64, ge=1)
    """Lines per step."""
    epochs: float = Field(default=3, gt=0)
    """Passes over the corpus."""
    seed: int = 0
    """Seed of weights and order."""

    @field_validator("conversations", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


def corpus(config: InitLanguageConfig) -> list[tuple[str, str]]:
    """Returns (context, answer) pairs: narrations after jumbled words, conversations as chat turns about them."""
    from exo2ego.data.clips import read_clips
    from exo2ego.data.conversations import read_conversations
    from exo2ego.data.prompting import user_turn

    chance = random.Random(config.seed)
    texts = read_clips(Path(config.clips)).column("text").to_pylist()
    lines = [(jumbled(text, chance), text) for text in texts]
    for file in config.conversations * config.conversation_passes:
        for row in read_conversations(Path(file)):
            turn = user_turn(row.instruction, row.question, row.options)
            lines.append((f"[INST] {jumbled(described(row), chance)}\n{turn} [/INST]", row.answer))
    return lines


def described(row: Conversation) -> str:
    """Returns what the clip shows: the answer, or the option that a letter (`B`, or `(B) on the table`) stands for."""
    letter = row.answer[1:2] if row.answer.startswith("(") else row.answer
    if row.options and letter in LETTERS:
        return row.options[LETTERS.index(letter)]
    return row.answer


def jumbled(text: str, chance: random.Random) -> str:
    """Returns words of a text in random order, some left out; in one line of `WITHOUT_WORDS` only `<video>`."""
    if chance.random() < WITHOUT_WORDS:
        return "<video>"
    words = [word for word in text.rstrip(".").split() if chance.random() < WORD_KEPT]
    chance.shuffle(words)
    return " ".join(words)


def train_language(config: InitLanguageConfig, options: RunOptions) -> int:
    """Trains the model unless its folder already holds it; raises `CheckpointError` when that is another one."""
    lines = corpus(config)
    console.print(f"[bold]init_language[/] · {len(lines):,} lines of text · stands in for Mistral-7B-Instruct")
    if options.dry_run:
        return 0
    output_dir = Path(config.output_dir)
    record = _record(config)
    if output_dir.exists():
        made = read_json(output_dir / provenance.FILE_NAME, "record of the language model")
        if any(made[key] != record[key] for key in ("config", "inputs")):
            raise CheckpointError(f"{output_dir}: was made from another configuration or corpus; remove it first")
        console.print(f"{output_dir} is complete: nothing to do", markup=False)
        return 0
    from exo2ego.train.language import train_small_language_model

    train_small_language_model(
        lines,
        output_dir,
        sizes=config.sizes,
        optim=config.optim,
        batch_size=config.batch_size,
        epochs=config.epochs,
        seed=config.seed,
        record=record,
    )
    return 0


def _record(config: InitLanguageConfig) -> dict[str, Any]:
    """Returns what goes beside the model; paths do not decide what it is, the files' contents do."""
    inputs = {"clips": hash_file(Path(config.clips))}
    for number, file in enumerate(config.conversations):
        inputs[f"conversations/{number}"] = hash_file(Path(file))
    decisive = config.model_dump(mode="json", exclude={"clips", "conversations", "output_dir"})
    return provenance.provenance(decisive, config.seed, inputs)


CONFIG = InitLanguageConfig

if __name__ == "__main__":
    sys.exit(run_configured("stages.init_language", (__doc__ or "").strip(), InitLanguageConfig, train_language))
