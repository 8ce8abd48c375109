"""The columns of EgoIT and EgoBench tables for `datasets.load_dataset("json", features=…)`.

Without them `datasets` takes the types from the first rows of the first file, where a column may hold nothing but null
(`start` of whole videos) or lack a key (`meta` of another source), and fails at the first row that has it.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from data_builders.egobench.meta import META_TYPES
from exo2ego.records import Conversation, Question, Record

if TYPE_CHECKING:
    from datasets import Features  # type: ignore[import-untyped]

_COLUMN_TYPES = {str: "string", int: "int64", float: "float64"}


def question_features() -> Features:
    """Returns the columns of every EgoBench table; `meta` has all keys of all sources, null where a row has none."""
    return _features(Question, {"meta": META_TYPES})


def conversation_features() -> Features:
    """Returns the columns of every EgoIT table."""
    return _features(Conversation, {})


def _features(record: type[Record], members: Mapping[str, Mapping[str, Any]]) -> Features:
    from datasets import Features

    columns = {}
    for name, field in record.model_fields.items():
        if name in members:
            columns[name] = {key: _column(annotation) for key, annotation in members[name].items()}
        else:
            columns[field.alias or name] = _column(field.annotation)
    return Features(columns)


def _column(annotation: Any) -> Any:
    """Returns the column of a text, a number, a list of one of them, each also where it may be null."""
    from datasets import List, Value

    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return _column(next(argument for argument in arguments if argument is not type(None)))
    if origin is Literal:
        return _column(type(arguments[0]))
    if origin is list:
        return List(_column(arguments[0]))
    return Value(_COLUMN_TYPES[annotation])
