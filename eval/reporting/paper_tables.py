"""The tables of the Exo2Ego paper that EgoBench's results stand beside; the numbers are in `paper_tables.json`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from exo2ego.storage import read_json

DATA_FILE = Path(__file__).with_name("paper_tables.json")
ABSENT = "-"
TRANSPOSED = (13, 15)
"""Tables that the paper prints with one column per method."""
STAGES = 15
"""The table of Exo2Ego after each stage."""


class PaperRow(BaseModel):
    """One method, with the conditions that the paper prints; empty where it prints none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    group: str = ""
    method: str
    encoder: str = ""
    language_model: str = ""
    frames: str = ""
    setting: str = ""
    """ZS: zero-shot, FT: fine-tuned."""
    mode: str = ""
    """Answer mode of a row of this project; the paper names none."""
    full_gallery: bool = False
    """Whether the numbers are over the full gallery, so that they compare with no number over five options."""
    values: tuple[str, ...]
    """As printed, with † where the paper has it; "-" where it has no number."""


class PaperTable(BaseModel):
    """One table; a column is the task and measure of this project that it corresponds to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int
    title: str
    columns: tuple[str, ...]
    """`task measure`, or `task measure/measure` where two numbers are printed as one."""
    headings: tuple[str, ...]
    notes: tuple[str, ...]
    rows: tuple[PaperRow, ...]

    @model_validator(mode="after")
    def _every_row_fills_the_columns(self) -> PaperTable:
        lengths = {len(self.columns), len(self.headings), *(len(row.values) for row in self.rows)}
        if len(lengths) > 1:
            raise ValueError(f"table {self.number}: rows, columns and headings have different lengths: {lengths}")
        return self

    def numbers(self, row: PaperRow) -> dict[str, float]:
        """Returns a row's first printed measure by task, in percent."""
        found: dict[str, float] = {}
        for column, text in zip(self.columns, row.values, strict=True):
            if text != ABSENT:
                found.setdefault(column.split()[0], float(text.rstrip("†").split("/")[0]))
        return found


class PaperTables(BaseModel):
    """All tables, and where they come from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    marks: str
    tables: tuple[PaperTable, ...]

    def table(self, number: int) -> PaperTable:
        """Returns the table of the paper's number."""
        return next(table for table in self.tables if table.number == number)


@functools.cache
def paper_tables() -> PaperTables:
    """Reads the tables."""
    content: Any = read_json(DATA_FILE, "the paper's tables")
    return PaperTables.model_validate(content)
