"""The options of a question whose wrong ones were found by SentenceBERT, in their final order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data_builders.distractors.pool import Neighbour
from data_builders.egobench.options import OptionStyle, option_text, shuffled_options


@dataclass(frozen=True)
class Choices:
    """Truth and distractors of one question; all lists are in the order in which the options are printed."""

    texts: list[str]
    """As the source writes them."""
    answer_index: int
    similarities: list[float]
    """Cosine to the truth, which itself has 1.0."""

    def printed(self, style: OptionStyle) -> list[str]:
        """Returns the options as a question shows them."""
        return [option_text(text, style) for text in self.texts]

    def also_correct(self, is_correct: Callable[[str], bool]) -> list[int]:
        """Returns the indices of the distractors that are true as well."""
        return [index for index, text in enumerate(self.texts) if index != self.answer_index and is_correct(text)]


def arrange(truth: str, distractors: Sequence[Neighbour], *, task: str, question_id: str, seed: int) -> Choices:
    """Puts truth and distractors into an order that depends on seed, task and id alone."""
    wrong = [distractor.text for distractor in distractors]
    texts, answer_index = shuffled_options(truth, wrong, task=task, question_id=question_id, seed=seed)
    similarity = {distractor.text: distractor.similarity for distractor in distractors}
    return Choices(texts, answer_index, [1.0 if text == truth else similarity[text] for text in texts])
