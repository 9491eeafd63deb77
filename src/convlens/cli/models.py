"""``make models [search=TEXT]``: the networks, their weights, and what is explained of them."""

from __future__ import annotations

from rich.table import Table

from convlens.cli.results import folded, right, screen
from convlens.cli.words import Word, Words, parse_words, read_count

WORDS: Words = {
    "search": Word("part of the name, such as vit, or a pattern, such as resnet5*", form="TEXT"),
    "limit": Word("the largest number of networks to list", form="N", default="20"),
}
WIDEST = 10_000  # most characters in a line that is written to a file or a pipe


def run(words: list[str]) -> int:
    values = parse_words(words, "models", WORDS)
    limit = read_count(values, "limit")
    from convlens.models.catalogue import Entry, describe, search_names

    names = search_names(values["search"])
    entries = describe(names[:limit])

    def to_cells(entry: Entry) -> list[str]:
        count = "" if entry.parameters is None else f"{entry.parameters / 1e6:.1f} M"
        size = "any" if entry.size is None else f"{entry.size} px"
        on = ", ".join(f"{row.name} ({row.error or 'refused'})" for row in entry.checked)
        explained = ", ".join(entry.explained)
        return [entry.name, count, size, entry.weights, explained, on or "not checked"]

    table = Table(
        folded("network"), right("parameters"), right("input"), folded("weights"),
        folded("works"), folded("checked on (error below)"),
    )  # fmt: skip
    for entry in entries:
        table.add_row(*to_cells(entry))
    console = screen()
    if not console.is_terminal:  # one line per network, for grep and for files
        console.width = console.measure(table, options=console.options.update(width=WIDEST)).maximum
    console.print(table)
    if len(names) > limit:
        print(f"{len(names) - limit} more; search=TEXT finds some, limit={len(names)} lists all")
    return 0
