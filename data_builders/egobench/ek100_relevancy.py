"""How relevant the captions of EPIC-KITCHENS-100 are to an action."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from exo2ego.action_relevancy import ActionClass, relevancy
from exo2ego.data.prompting import normal_form


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
        return max(relevancy(action, other) for other in self._classes[normal_form(text)])
