"""A table that an explanation finds, such as the mistakes of an epoch."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

Cell = str | int | float


@dataclass(frozen=True)
class Table:
    """A table of texts and numbers.

    Attributes:
        columns: the names of the columns.
        rows: the cells of each row, as many as there are columns.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def to_markdown(self) -> str:
        """Return the table as Markdown, numbers with four significant digits."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join("| " + " | ".join(map(_format_cell, line)) + " |" for line in lines)

    def to_csv(self) -> str:
        """Return the table as CSV (RFC 4180), numbers in full."""
        text = io.StringIO(newline="")
        csv.writer(text).writerows([self.columns, *self.rows])
        return text.getvalue()


def _format_cell(cell: Cell) -> str:
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return " ".join(str(cell).split()).replace("|", "\\|")
