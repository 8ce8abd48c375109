"""How relevant one action is to another: the official measure of EPIC-KITCHENS-100 multi-instance retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray


@dataclass(frozen=True)
class ActionClass:
    """The verb class of an action and the set of its noun classes (a row can name a noun class twice)."""

    verb: int
    nouns: frozenset[int]


def relevancy(first: ActionClass, second: ActionClass) -> float:
    """Returns 0 to 1: half for the same verb, half for the share of common nouns (JPoSE, `create_relevancy_files.py`).

    1 means the same class, and only that counts as relevant in the official mAP.
    """
    return 0.5 * (first.verb == second.verb) + 0.5 * len(first.nouns & second.nouns) / len(first.nouns | second.nouns)


def relevancy_matrix(rows: Sequence[ActionClass], columns: Sequence[ActionClass]) -> NDArray[numpy.float64]:
    """Returns `relevancy` of every row to every column, [N, M], equal to the official matrix bit for bit."""
    kinds = {action: number for number, action in enumerate(dict.fromkeys((*rows, *columns)))}
    of_row = numpy.array([kinds[action] for action in rows])
    of_column, columns_of_kind = numpy.unique([kinds[action] for action in columns], return_inverse=True)
    nouns = {noun: number for number, noun in enumerate(sorted({noun for action in kinds for noun in action.nouns}))}
    present = numpy.zeros((len(kinds), len(nouns)), dtype=numpy.float32)  # counts stay exact far beyond any action
    for action, number in kinds.items():
        present[number, [nouns[noun] for noun in action.nouns]] = 1
    verbs = numpy.array([action.verb for action in kinds])
    sizes = present.sum(axis=1)
    matrix = numpy.empty((len(rows), len(columns)))
    for kind in numpy.unique(of_row):
        common = (present[of_column] @ present[kind]).astype(numpy.float64)
        union = sizes[of_column].astype(numpy.float64) + sizes[kind] - common
        graded = 0.5 * (verbs[of_column] == verbs[kind]) + 0.5 * (common / union)
        matrix[of_row == kind] = graded[columns_of_kind]
    return matrix
