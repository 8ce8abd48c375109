"""How questions are put, and which of them a clip is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from eval.prompts import PromptTemplate
from exo2ego.records import AnswerMode, Question

if TYPE_CHECKING:
    from exo2ego.data.clip_store import ClipStore


@dataclass(frozen=True)
class AnswerPlan:
    """How questions are put."""

    modes: tuple[AnswerMode, ...]
    choice_prompt: PromptTemplate
    likelihood_prompt: PromptTemplate
    open_prompt: PromptTemplate
    data_root: Path
    seed: int
    """Chooses among a question's exo videos."""
    max_failures: int
    """Questions that may stay unanswered: their video is unreadable, or the model or its endpoint fails at them."""
    clip_store: ClipStore | None = None
    """Read instead of the videos."""
    blind: bool = False
    """Show grey pictures: what is right without looking (a control)."""
    shuffle_frames: bool = False
    """Show the clip's frames in another order, fixed by seed and clip: what is right without time (a control)."""
    num_workers: int = 2
    """Threads that decode ahead."""
    process_index: int = 0
    num_processes: int = 1
    """Processes that share the clips."""
    longest_read_s: float = 900.0
    """Seconds after which a clip that threads read is given up: its decoder hangs."""

    def modes_of(self, question: Question) -> tuple[AnswerMode, ...]:
        """Returns how a question is answered: an open one by generated text alone."""
        return self.modes if question.options else ("generate",)


class AskedClip(NamedTuple):
    """The questions about one clip."""

    questions: Sequence[Question]
    missing: list[tuple[Question, AnswerMode]]
    """Those still to be answered, and how."""
