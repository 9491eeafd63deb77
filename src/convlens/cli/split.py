"""``make split src=DIR dst=DIR``: divide class folders into train/, validation/ and test/."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from convlens.cli.results import right
from convlens.cli.words import Word, Words, parse_words, read_number, read_switch
from convlens.data.index.listing import list_images
from convlens.data.index.split_copy import copy_split
from convlens.data.index.splits import Share
from convlens.data.index.twins import (
    describe_conflicts,
    describe_leaks,
    find_duplicates,
    find_twins,
)

WORDS: Words = {
    "src": Word("a folder with one folder per class", form="DIR", required=True),
    "dst": Word("the new folder", form="DIR", required=True),
    "validation": Word(
        "validation images: a fraction below 1, or a count", form="AMOUNT", default="0.15"
    ),
    "test": Word(
        "test images: a fraction below 1, or a count", form="AMOUNT", default="0.15"
    ),
    "seed": Word("seed of the random choice", form="NUMBER", default="0"),
    "link": Word(
        "hard-link the files instead of copying them",
        form="true|false", default="false", values=("true", "false"),
    ),
}  # fmt: skip


def run(words: list[str]) -> int:
    values = parse_words(words, "split", WORDS)
    divide(
        Path(values["src"]).expanduser(),
        Path(values["dst"]).expanduser(),
        validation=read_number(values, "validation"),
        test=read_number(values, "test"),
        seed=int(read_number(values, "seed")),
        link=read_switch(values, "link"),
    )
    return 0


def divide(
    src: str | os.PathLike, dst: str | os.PathLike, *, validation: Share = 0.15,
    test: Share = 0.15, seed: int = 0, link: bool = False,
) -> dict[str, dict[str, int]]:  # fmt: skip
    """Copy the images, print the counts, and return them.

    Args:
        src: a folder with one folder per class.
        dst: the new folder.
        validation: validation images: a fraction of all images below 1, or a count.
        test: test images: a fraction of all images below 1, or a count.
        seed: seed of the random choice.
        link: whether to hard-link the files instead of copying them.

    Returns:
        The number of images by split and class.

    Raises:
        UserError: ``src`` cannot be divided as requested, or ``dst`` cannot be written.
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
    listing = list_images(dst, pattern="{class}/*")  # the layout is known
    groups = find_twins(listing)
    leaks = describe_leaks(listing, find_duplicates(listing, groups))
    for line in (*notes, describe_conflicts(listing, groups), leaks):
        if line:
            console.print(Text(f"! {line}"), soft_wrap=True)
    console.print(Text(f"{row[-1]} images are in {dst} (seed {seed})"), soft_wrap=True)
    return counts
