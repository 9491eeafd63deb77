"""``make split src=DIR dst=DIR``: class folders to train/, validation/ and test/ folders."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from convlens.cli.results import right
from convlens.cli.words import number, take
from convlens.data.index.listing import list_images
from convlens.data.index.split_copy import copy_split
from convlens.data.index.splits import Share
from convlens.data.index.twins import (
    describe_conflicts,
    describe_leaks,
    find_duplicates,
    find_twins,
)


def run(words: list[str]) -> int:
    defaults = {"src": None, "dst": None, "validation": "0.15", "test": "0.15", "seed": "0"}
    asked = take(words, "split", {**defaults, "link": "false"})
    divide(
        Path(asked["src"]).expanduser(),
        Path(asked["dst"]).expanduser(),
        validation=number(asked, "validation"),
        test=number(asked, "test"),
        seed=int(number(asked, "seed")),
        link=asked["link"] == "true",
    )
    return 0


def divide(
    src: str | os.PathLike, dst: str | os.PathLike, *, validation: Share = 0.15,
    test: Share = 0.15, seed: int = 0, link: bool = False,
) -> dict[str, dict[str, int]]:  # fmt: skip
    """Copy (``link``: hard-link) the pictures, print the counts, and return them.

    Shares below 1 are fractions of all pictures, from 1 on counts. Returns split → class →
    pictures. Raises UserError as ``convlens.data.index.split_copy.copy_split`` does.
    """
    counts, notes = copy_split(src, dst, validation=validation, test=test, seed=seed, link=link)
    table = Table("class", *map(right, (*counts, "all")))
    for label in counts["train"]:
        row = [counts[name][label] for name in counts]
        table.add_row(Text(label), *map(str, row), str(sum(row)))
    row = [sum(counts[name].values()) for name in counts]
    table.add_section()
    table.add_row("all", *map(str, row), str(sum(row)))
    console = Console(markup=False)
    console.print(table)
    found = list_images(dst, pattern="{class}/*")  # its layout is ours: nothing to find out
    groups = find_twins(found)
    leaks = describe_leaks(found, find_duplicates(found, groups))
    for line in (*notes, describe_conflicts(found, groups), leaks):
        if line:
            console.print(Text(f"! {line}"), soft_wrap=True)
    console.print(Text(f"{row[-1]} pictures lie in {dst} (seed {seed})"), soft_wrap=True)
    return counts
