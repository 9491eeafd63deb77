"""``make runs [sort=test/accuracy] [dir=outputs]``: every run in one table."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from convlens.cli.results import folded, right, screen
from convlens.cli.words import Word, Words, parse_words
from convlens.core.command_lines import command_line
from convlens.core.errors import UserError
from convlens.rundir.read import StoredRun
from convlens.rundir.runs import TEXTS, UnreadableRun, read_all_runs, sort_runs

WORDS: Words = {
    "sort": Word(
        "the column or number to sort by, such as test/accuracy; -KEY descends, +KEY ascends",
        form="KEY", default="date",
    ),
    "dir": Word("the folder with the runs", form="DIR", default="outputs"),
}  # fmt: skip
# columns of numbers: heading -> key in a run's numbers, format
NUMBERS = {
    "epochs": ("epochs", ".0f"),
    "val loss": ("val/loss", ".4f"),
    "val accuracy": ("val/accuracy", ".4f"),
    "test accuracy": ("test/accuracy", ".4f"),
    "seconds": ("seconds", ".0f"),
    "alarms": ("alarms", ".0f"),
}
WIDEST = 10_000  # most characters in a line that is written to a file or a pipe


def run(words: list[str]) -> int:
    values = parse_words(words, "runs", WORDS)
    parent = Path(values["dir"]).expanduser()
    runs = read_all_runs(parent)
    if not runs:
        raise UserError(f"there is no run in {parent}/ yet; `{command_line('train')}` starts one")
    runs = sort_runs(runs, values["sort"], [key for key, _ in NUMBERS.values()])
    table, console = _table_of(runs, parent, values["sort"].lstrip("+-")), screen()
    if not console.is_terminal:  # one line per run, for grep and for files
        console.width = console.measure(table, options=console.options.update(width=WIDEST)).maximum
    console.print(table)
    for each in runs:
        if isinstance(each, UnreadableRun):
            print(f"! {each.reason}")
    return 0


def _table_of(runs: list[StoredRun | UnreadableRun], parent: Path, sort: str) -> Table:
    """Return a table with the columns of ``NUMBERS``, plus one if ``sort`` is another number."""
    columns = dict(NUMBERS)
    if sort not in (*TEXTS, "seed", *(key for key, _ in NUMBERS.values())):
        columns[sort] = (sort, ".4g")
    texts = map(folded, ("run", "date", "experiment"))
    table = Table(*texts, *map(right, ("seed", *columns)), folded("state"))
    for each in runs:
        name = str(each.home.relative_to(parent))
        if isinstance(each, UnreadableRun):
            table.add_row(name, *[""] * (3 + len(columns)), "failed to read")
            continue
        numbers = each.numbers
        cells = [
            f"{numbers[key]:{pattern}}" if key in numbers else ""
            for key, pattern in columns.values()
        ]
        seed = "" if each.config.seed is None else str(each.config.seed)
        experiment = str(each.config.experiment)
        table.add_row(name, f"{each.started:%Y-%m-%d %H:%M}", experiment, seed, *cells, each.state)
    return table
