"""The prompts put to a model, by name and version; a changed text needs a new version, so that results keep meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from exo2ego.data.prompting import LETTER_REQUEST, user_turn


@dataclass(frozen=True)
class PromptTemplate:
    """A sentence that precedes every question."""

    sentence: str
    source: str
    """Where the sentence comes from."""


PROMPTS: dict[str, PromptTemplate] = {
    "careful@1": PromptTemplate(
        "Carefully observe the video and choose the best option for the question.",
        "Exo2Ego Table 16, row 1 (average 54.5)",
    ),
    "detailed@1": PromptTemplate(
        "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
        "objects, and the action and pose of persons. Select the best option that accurately addresses the question.",
        "Exo2Ego Table 16, row 2 (average 55.2); the system prompt of MVBench",
    ),
    "first_person@1": PromptTemplate(
        "From a first-person perspective, pay attention to the cause and sequence of events, the hands' movements and "
        "details with objects, and the action and pose of persons. Select the best option that accurately addresses "
        "the question.",
        "Exo2Ego Table 16, row 3 (average 55.6): the paper's final prompt",
    ),
    "short_answer@1": PromptTemplate(
        "From a first-person perspective, answer the question about the video in a few words.",
        "not in the paper, which does not give its prompt for open questions",
    ),
    "question_only@1": PromptTemplate("", "not in the paper: EgoPlan scores option texts after the question alone"),
}


def open_turn(template: PromptTemplate, question: str) -> str:
    """Returns the user's turn without the options, after which each option's text is scored."""
    return user_turn(template.sentence, question)


def choice_turn(template: PromptTemplate, question: str, options: Sequence[str]) -> str:
    """Returns the user's turn with lettered options, which asks for a letter."""
    return user_turn(f"{template.sentence} {LETTER_REQUEST}", question, options)
