"""How relevant a caption is to an action: the official measure of EPIC-KITCHENS-100 multi-instance retrieval."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from exo2ego.data.prompting import normal_form


@dataclass(frozen=True)
class ActionClass:
    """The verb class of an action and the set of its noun classes (a row can name a noun class twice)."""

    verb: int
    nouns: frozenset[int]


def relevance(first: ActionClass, second: ActionClass) -> float:
    """Returns 0 to 1: half for the same verb, half for the share of common nouns (JPoSE, `create_relevancy_files.py`).

    1 means the same class, and only that counts as relevant in the official mAP.
    """
    return 0.5 * (first.verb == second.verb) + 0.5 * len(first.nouns & second.nouns) / len(first.nouns | second.nouns)


class Captions:
    """Captions and the classes of the clips they stand for; texts of one normal form are one caption."""

    def __init__(self, told: Iterable[tuple[str, ActionClass]]) -> None:
        self._classes: dict[str, set[ActionClass]] = defaultdict(set)
        self._texts: dict[str, str] = {}
        self._told: dict[ActionClass, set[str]] = defaultdict(set)
        for text, action in told:
            form = normal_form(text)
            self._classes[form].add(action)
            self._told[action].add(self._texts.setdefault(form, text))

    @property
    def texts(self) -> list[str]:
        """One text per caption, in the order of their first occurrence."""
        return list(self._texts.values())

    @property
    def equivalents(self) -> Mapping[ActionClass, set[str]]:
        """The captions of every class."""
        return self._told

    def relevance(self, text: str, action: ActionClass) -> float:
        """Returns how relevant one of the captions is to an action, by the best of its classes."""
        return max(relevance(action, other) for other in self._classes[normal_form(text)])
