"""The task instructions of an EgoIT source: ten per source, one drawn for every conversation (Exo2Ego §3.2)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from exo2ego.errors import DataError
from exo2ego.raw.rows import RawRow, Text, describe_faults
from exo2ego.storage import read_json

PACKAGED = Path(__file__).with_name("instructions")


class InstructionSet(RawRow):
    """A file of instructions: where they come from, and the texts."""

    source: Text
    written_by: Text
    """For example `exo2ego Table 11 (first three) and this project`, or the model of an endpoint."""
    instructions: list[Text]


def read_instructions(source: str, path: Path | None = None) -> list[str]:
    """Returns the instructions of `source` from a file, or those of the package; raises `DataError`."""
    file = path or PACKAGED / f"{source}.json"
    try:
        told = InstructionSet.model_validate(read_json(file, "instruction file"))
    except ValidationError as error:
        raise DataError(f"{file}: is not an instruction file: {describe_faults(error)}") from error
    if told.source != source:
        raise DataError(f"{file}: holds instructions for {told.source}, expected {source}")
    if not told.instructions or len(set(told.instructions)) != len(told.instructions):
        raise DataError(f"{file}: expected at least one instruction and none twice, got {len(told.instructions)}")
    return told.instructions


def draw_instruction(instructions: Sequence[str], seed: int, conversation_id: str) -> str:
    """Returns the instruction of a conversation: it depends on seed and id alone, not on the other rows."""
    return random.Random(f"{seed}/instruction/{conversation_id}").choice(instructions)
