"""The conversation table on disk (EgoIT): one JSON object per line."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from exo2ego.errors import DataError
from exo2ego.records import Conversation
from exo2ego.storage import read_jsonl


def read_conversations(path: Path) -> list[Conversation]:
    """Reads all conversations; raises `DataError` naming the file and the faulty row."""
    conversations = []
    for number, row in enumerate(read_jsonl(path, "conversation table"), 1):
        try:
            conversations.append(Conversation.model_validate(row))
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
            raise DataError(f"{path}: conversation {number} is not an EgoIT record: {faults}") from error
    return conversations
