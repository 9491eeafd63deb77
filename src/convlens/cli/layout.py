"""Lines of help, as wide as the screen."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable

WIDTH = 120  # characters of a line where there is no terminal
COLUMN = 40  # widest first column


def find_width() -> int:
    """Return how many characters a line of the screen has."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH


def format_rows(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Return lines with two aligned columns; a long first cell gets a line of its own."""
    pairs = list(pairs)
    column = min(COLUMN, max((len(first) for first, _ in pairs), default=0)) + 4
    lines = []
    for first, second in pairs:
        start = f"  {first}".ljust(column)
        if len(first) + 4 > column:
            lines.append(f"  {first}")
            start = " " * column
        lines += textwrap.wrap(
            second, find_width(), initial_indent=start, subsequent_indent=" " * column,
            drop_whitespace=True, break_on_hyphens=False,
        )  # fmt: skip
    return lines


def format_examples(examples: Iterable[str]) -> list[str]:
    """Return the heading and the lines of examples."""
    return ["examples:", *(f"  {example}" for example in examples)]
